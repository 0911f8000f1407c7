import csv
import math
import signal

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.utils.data import Dataset

from invariances.autoencoder.vae import VAE
from invariances.features.stream import Features, FeatureStream
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import CONFIG, LAST, Interpreter
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.training.auxiliary import auxiliary_targets
from invariances.training.callbacks import Measure, parts, quiet
from invariances.training.checkpoints import load_checkpoint
from invariances.training.data import CacheOptions, FeatureData
from invariances.training.fit import _cost, fit, fit_layers
from invariances.training.flow import FlowTraining, new_flow
from invariances.training.muon import MuonAdam
from invariances.training.run_folder import METRICS, Stopped
from invariances.training.schedule import rate_factor
from invariances.training.start import start_embedder


class Colours(Dataset):
    """Coloured squares, by index."""

    def __init__(self, n=40, seed=0):
        self.images = torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index].expand(3, 32, 32).contiguous(), "label": -1, "index": index}

    def fingerprint(self):
        return f"colours {len(self)} {float(self.images.sum())}"


def small_network():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        )
    net.preprocessing = {"size": 32}
    return net


def prepared(representation, vae, folder, auxiliary=()):
    """Makes the data of one layer, and of auxiliary ones, with its features in `folder`."""
    cache = CacheOptions(folder=str(folder))

    def data():
        made = FeatureData.of(Colours(), 0.25, batch_size=8, cache=cache, progress=False)
        made.prepare([representation, *auxiliary], vae)
        return made

    return data


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    representation = Representation(small_network(), "4")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = VAE(32, latent_dim=4, width=4, max_width=4, blocks=0).eval()
    return representation, vae, prepared(representation, vae, tmp_path_factory.mktemp("features"))


class At(Callback):
    """Calls a function in the middle of a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            self.act()


class Kill(Exception):
    """Stands for SIGKILL: nothing is saved on the way out."""


def kill():
    raise Kill


def terminate():
    signal.raise_signal(signal.SIGTERM)


def train(
    setup,
    folder,
    steps=10,
    resume=False,
    act=None,
    every=1000,
    samples_every=0,
    progress=False,
    embedder="published",
    auxiliary=(),
    transform="coupling",
    **options,
):
    representation, vae, data = setup
    sizes = {"blocks": 2, "width": 8, "depth": 1, "transform": transform}
    if embedder != "published":
        sizes |= {"embedder": embedder, "embedder_width": 2}
    flow = new_flow(representation, vae, 3, auxiliary, **sizes)
    options["auxiliary"] = auxiliary
    settings = {"schedule": "cosine", "warmup": 3, "ema": 0.9, "learning_rate": 1e-3, "seed": 7, **options}
    training = FlowTraining(representation, vae, flow, **settings)
    with quiet():
        made = parts(folder, every, samples_every, progress)
        if act is not None:
            made["callbacks"].insert(0, act if isinstance(act, Callback) else At(*act))
        trainer = Trainer(
            max_steps=steps,
            accelerator="cpu",
            log_every_n_steps=1,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            **made,
        )
        trainer.fit(training, datamodule=data(), ckpt_path=folder / LAST if resume else None)
    return training


def rows(folder):
    with (folder / METRICS).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(setup, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    training = train(setup, folder, samples_every=5)
    return folder, training


def assert_same_run(whole, folder, training):
    assert rows(folder) == rows(whole[0])
    for key, value in whole[1].state_dict().items():
        assert torch.equal(value, training.state_dict()[key]), key


def test_a_run_reports_train_and_held_out_loss_and_draws_samples(whole):
    found = rows(whole[0])
    assert [int(row["step"]) for row in found] == list(range(1, 11))
    assert [int(row["step"]) for row in found if row["held_out_nll"]] == [3, 6, 9, 10]
    assert sorted(each.name for each in (whole[0] / "samples").iterdir()) == [
        "step_0000005.png",
        "step_0000010.png",
    ]
    assert any("events" in each.name for each in (whole[0] / "tensorboard").iterdir())


# 30 pictures to train on, batches of 8: epochs of 3 steps; these stop in the first, middle and last step of one.
@pytest.mark.parametrize("stop", [0, 1, 2, 3, 7])
def test_a_stopped_and_resumed_run_is_the_uninterrupted_run_to_the_bit(setup, whole, tmp_path, stop):
    with pytest.raises(Stopped) as stopped:
        train(setup, tmp_path, act=(stop, terminate))
    assert stopped.value.step == stop + 1
    assert_same_run(whole, tmp_path, train(setup, tmp_path, resume=True))


@pytest.mark.parametrize("death", [4, 6, 8])
def test_a_killed_run_repeats_what_it_lost_to_the_bit(setup, whole, tmp_path, death):
    with pytest.raises(Kill):
        train(setup, tmp_path, act=(death, kill), every=2)
    assert len(rows(tmp_path)) == death
    assert_same_run(whole, tmp_path, train(setup, tmp_path, resume=True))


def test_a_run_by_muon_resumes_to_the_bit_and_is_not_taken_for_one_by_adam(setup, tmp_path):
    options = {"optimizer": "muon", "weight_decay": 0.1}
    whole = tmp_path / "whole", train(setup, tmp_path / "whole", **options)
    with pytest.raises(Stopped):
        train(setup, tmp_path / "part", act=(4, terminate), **options)
    with pytest.raises(UserError, match="another optimizer"):
        train(setup, tmp_path / "part", resume=True)
    assert_same_run(whole, tmp_path / "part", train(setup, tmp_path / "part", resume=True, **options))


@pytest.mark.parametrize("embedder", ["published", "residual"])
def test_a_run_of_a_continuous_flow_reports_its_matching_loss_and_resumes_to_the_bit(
    setup, tmp_path, embedder
):
    options = {"transform": "continuous", "embedder": embedder, "regression": 0.4, "optimizer": "muon"}
    whole = tmp_path / "whole", train(setup, tmp_path / "whole", **options)
    first = 4 if embedder == "residual" else 0
    for row in rows(tmp_path / "whole"):
        regressed = int(row["step"]) <= first
        assert (row["nll"] != "", row["matching"] != "") == (regressed, not regressed)
    assert [int(row["step"]) for row in rows(whole[0]) if row["held_out_nll"]] == [3, 6, 9, 10]
    # of the first batch that the velocity learned from
    assert whole[1].average.blocks[0].norm.loc.abs().sum() > 0
    with pytest.raises(Stopped):
        train(setup, tmp_path / "part", act=(first + 1, terminate), **options)
    with pytest.raises(UserError, match="another flow"):
        train(setup, tmp_path / "part", resume=True, **{**options, "transform": "coupling"})
    assert_same_run(whole, tmp_path / "part", train(setup, tmp_path / "part", resume=True, **options))


@pytest.mark.parametrize(
    ("optimizer", "parts"),
    [("adam", set()), ("muon_embedder", {"embedder"}), ("muon", {"embedder", "blocks"})],
)
def test_muon_moves_the_matrices_of_the_parts_that_are_named(setup, tmp_path, optimizer, parts):
    training = train(setup, tmp_path, optimizer=optimizer)
    names = {id(each): name for name, each in training.flow.named_parameters()}
    moved = {
        names[id(each)]
        for group in training.optimizers().param_groups
        if group.get("muon") is not None
        for each in group["params"]
    }
    matrices = {name for name, each in training.flow.named_parameters() if each.dim() > 1}
    assert moved == {name for name in matrices if name.split(".")[0] in parts}


RESIDUAL = {"embedder": "residual", "regression": 0.4}


# a layer of vectors, one of maps, and again vectors with what the network saw on its way to them
@pytest.fixture(scope="module", params=[("4", ()), ("0", ()), ("4", ("0", "1"))], ids=str)
def regressed(request, setup, tmp_path_factory):
    """A setup, options of a run of 10 steps whose first four are the regression's, and that run."""
    representation, vae, _ = setup
    layer, names = request.param
    of_layer = Representation(representation, layer)
    options = {**RESIDUAL, "auxiliary": auxiliary_targets(of_layer, names, "residual")}
    folder = tmp_path_factory.mktemp("regressed")
    its = of_layer, vae, prepared(of_layer, vae, tmp_path_factory.mktemp("features"), options["auxiliary"])
    return its, options, (folder, train(its, folder, samples_every=2, **options))


@pytest.mark.parametrize("optimizer", ["adam", "muon_embedder", "muon"])
def test_a_residual_embedder_learns_first_and_then_the_blocks_do_and_with_them_one_of_vectors(
    regressed, tmp_path, optimizer
):
    its, options, _ = regressed
    seen = {}

    def keep(name, training):
        seen[name] = {key: value.clone() for key, value in training.flow.named_parameters()}

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, *args):
            keep(trainer.global_step, pl_module)

        def on_train_batch_end(self, trainer, pl_module, outputs, *args):
            beside = bool(options["auxiliary"]) and pl_module.regressing(trainer.global_step - 1)
            assert (float(outputs["loss"]) != float(outputs["value"])) == beside

    training = train(its, tmp_path, act=Watch(), optimizer=optimizer, **options)
    keep(10, training)

    def moved(start, stop):
        return {key for key, value in seen[stop].items() if not torch.equal(value, seen[start][key])}

    norms = {key for key in seen[0] if "latent_norm" in key or "auxiliary_norm" in key}
    first = {key for key in seen[0] if "embedder.net.regression" in key} | norms
    vectors = len(its[0].shape) == 1
    assert training.regression_steps == 4
    assert moved(0, 4) == first
    # the normalisations are of the regression's densities alone
    learned = first - norms if vectors else set()
    assert moved(4, 10) == seen[0].keys() - first | learned


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_stopped_regression_resumes_to_the_bit(regressed, tmp_path, stop):
    its, options, whole = regressed
    with pytest.raises(Stopped):
        train(its, tmp_path, act=(stop, terminate), samples_every=2, **options)
    assert_same_run(whole, tmp_path, train(its, tmp_path, resume=True, samples_every=2, **options))


def test_a_run_with_auxiliary_layers_is_not_gone_on_with_others(setup, tmp_path):
    representation, vae, _ = setup
    first, other = (auxiliary_targets(representation, [layer], "residual") for layer in "01")
    its = representation, vae, prepared(representation, vae, tmp_path / "features", [*first, *other])
    train(its, tmp_path, steps=2, auxiliary=first, **RESIDUAL)
    with pytest.raises(UserError, match="another auxiliary"):
        train(its, tmp_path, resume=True, auxiliary=other, **RESIDUAL)


def test_a_regression_is_measured_by_its_own_density_and_draws_no_samples(regressed):
    folder, training = regressed[2]
    found = rows(folder)
    assert [int(row["step"]) for row in found if row["held_out_nll"]] == [3, 6, 9, 10]
    assert training.lowest[0] > 4
    assert sorted(each.name for each in (folder / "samples").iterdir()) == [
        f"step_{step:07d}.png" for step in (6, 8, 10)
    ]
    rates = [float(row["learning_rate"]) for row in found]
    assert 0.01 < max(rates[:4]) <= 0.02
    assert max(rates[4:]) <= 1e-3


def test_a_residual_embedder_finds_what_is_no_line_of_the_representation():
    class Pairs:
        """A latent that is a product, a square and an absolute value of the representation's entries."""

        n = 3000

        def __init__(self):
            z = torch.randn(self.n, 6, generator=torch.Generator().manual_seed(0))
            self.z, self.latent = z, torch.stack([z[:, 0] * z[:, 1], z[:, 2] ** 2, z[:, 3].abs()], dim=1)

        def shape(self, layer):
            return (6,)

        def batch(self, indices, layer):
            latent = self.latent[indices]
            return latent, torch.full_like(latent, -10.0), self.z[indices]

    features = Features(Pairs(), "x")
    found = {}
    for kind in ("published", "residual"):
        torch.manual_seed(0)
        flow = ConditionalFlow(3, (6,), blocks=1, width=8, embedder=kind, embedder_width=4)
        start_embedder(flow, features)
        if kind == "residual":
            stream = FeatureStream(features, 128)
            matrices = [each for each in flow.embedder.parameters() if each.dim() > 1]
            optimizer = MuonAdam(flow.embedder.parameters(), matrices, lr=0.02)
            for step in range(200):
                latent, z, _ = stream.at(step)
                optimizer.zero_grad()
                (-flow.gaussian_log_prob(latent, z).mean()).backward()
                optimizer.step()
        told = flow.eval().embed(features.batch(torch.arange(3000))[2]).detach()
        told = torch.cat([told, torch.ones(3000, 1)], dim=1)
        wanted = features.batch(torch.arange(3000))[0]
        left = wanted - told @ torch.linalg.lstsq(told, wanted).solution
        found[kind] = float((left.var(0) / wanted.var(0)).mean())
    assert found["residual"] < 0.45 < 0.8 < found["published"], found


def test_the_start_from_features_guesses_better_than_a_random_one(setup, tmp_path):
    losses = {}
    for whiten in (False, True):
        train(setup, tmp_path / str(whiten), steps=1, whiten=whiten)
        losses[whiten] = float(rows(tmp_path / str(whiten))[0]["nll"])
    assert losses[True] != losses[False]


@pytest.fixture
def losses_of(monkeypatch):
    """Puts numbers in place of the held-out losses; a run of 10 steps measures them at steps 3, 6, 9 and 10."""

    def put(*losses):
        held_out = iter(losses)
        monkeypatch.setattr(Measure, "_held_out", staticmethod(lambda *_: next(held_out)))

    return put


@pytest.mark.parametrize(("losses", "said"), [((1.0, 0.7, 0.6, 0.6), False), ((1.0, 0.6, 0.64, 0.66), True)])
@pytest.mark.parametrize(
    ("keep", "words"), [("best", "these weights are kept"), ("last", "last weights are kept")]
)
def test_a_run_that_learns_its_pictures_by_heart_says_so(
    setup, tmp_path, capsys, losses_of, losses, said, keep, words
):
    losses_of(*losses)
    train(setup, tmp_path, progress=True, keep=keep)
    error = capsys.readouterr().err
    assert ("was lowest at step 6 (0.600 nats" in error) == said
    assert (words in error) == said


def assert_same_flow(one, other):
    theirs = other.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize(("keep", "steps"), [("best", 6), ("last", 10)])
def test_the_weights_of_the_lowest_held_out_loss_remain(setup, tmp_path, losses_of, ema, keep, steps):
    options = {"schedule": "constant", "ema": ema}
    losses_of(1.0, 0.6)
    shorter = train(setup, tmp_path / "shorter", steps=6, keep="last", **options)
    losses_of(1.0, 0.6, 0.7, 0.65)
    longer = train(setup, tmp_path / "longer", keep=keep, **options)
    assert longer.lowest == (6, 0.6)
    expected = shorter.current if steps == 6 else longer.current
    assert_same_flow(longer.interpreter().flow, expected)
    assert not all(
        torch.equal(*pair) for pair in zip(shorter.current.parameters(), longer.current.parameters())
    )


def test_a_resumed_run_remembers_the_best_weights(setup, tmp_path, losses_of):
    losses_of(1.0, 0.6, 0.7, 0.65)
    whole = train(setup, tmp_path / "whole")
    losses_of(1.0, 0.6, 0.7, 0.65)
    with pytest.raises(Stopped):
        train(setup, tmp_path / "part", act=(7, terminate))
    resumed = train(setup, tmp_path / "part", resume=True)
    assert resumed.lowest == (6, 0.6)
    assert_same_flow(resumed.kept, whole.kept)


def test_signals_belong_to_their_owners_again_afterwards(setup, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(setup, tmp_path, steps=1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(Stopped):
        train(setup, tmp_path, act=(1, terminate))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_networks_under_study_are_neither_trained_nor_saved(setup, whole):
    representation, vae, _ = setup
    checkpoint = load_checkpoint(whole[0] / LAST)
    assert {key.split(".")[0] for key in checkpoint["state_dict"]} == {"flow", "average", "best"}
    assert not any(each.requires_grad for each in [*representation.parameters(), *vae.parameters()])
    assert not any(each.training for each in [*representation.network.modules(), *vae.modules()])
    assert not any(each.requires_grad for each in whole[1].average.parameters())


def test_a_loss_that_is_not_finite_stops_with_a_sentence_and_keeps_the_last_good_checkpoint(setup, tmp_path):
    state = {}

    def poison():
        state["before"] = (tmp_path / LAST).read_bytes()
        with torch.no_grad():
            for each in state["training"].flow.parameters():
                each.fill_(math.nan)

    init = FlowTraining.__init__

    def remember(self, *args, **kwargs):
        init(self, *args, **kwargs)
        state["training"] = self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlowTraining, "__init__", remember)
        with pytest.raises(UserError, match="no longer finite at step 6"):
            train(setup, tmp_path, act=(5, poison), every=2)
    assert (tmp_path / LAST).read_bytes() == state["before"]
    assert load_checkpoint(tmp_path / LAST)["global_step"] == 4


def test_a_checkpoint_of_another_flow_is_refused(setup, whole, tmp_path):
    representation, vae, _ = setup
    flow = new_flow(representation, vae, 3, blocks=3, width=8, depth=1)
    other = FlowTraining(representation, vae, flow, ema=0.9)
    with pytest.raises(UserError, match="another flow"):
        other.on_load_checkpoint(load_checkpoint(whole[0] / LAST))
    plain = FlowTraining(representation, vae, new_flow(representation, vae, 3, blocks=2, width=8, depth=1))
    with pytest.raises(UserError, match="another average"):
        plain.on_load_checkpoint(load_checkpoint(whole[0] / LAST))


def test_the_loss_falls_and_the_flow_learns_the_layer(setup, tmp_path):
    training = train(setup, tmp_path, steps=400, learning_rate=5e-3, warmup=20)
    found = [float(row["held_out_nll"]) for row in rows(tmp_path) if row["held_out_nll"]]
    assert found[-1] < found[0] - 0.3
    assert not training.kept.training


def test_learning_rate_by_default_is_the_published_one(setup, whole, tmp_path):
    train(setup, tmp_path, steps=2, learning_rate=None, schedule="constant", warmup=0)
    assert float(rows(tmp_path)[0]["learning_rate"]) == pytest.approx(4.5e-6 * 8)


def test_rate_factor():
    constant, cosine = rate_factor("constant", 4, 100), rate_factor("cosine", 0, 100)
    assert [constant(step) for step in (0, 1, 3, 50)] == [0.25, 0.5, 1, 1]
    assert [cosine(step) for step in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize(
    "options",
    [
        {"ema": 1.0},
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"optimizer": "sgd"},
        {"keep": "first"},
        {"weight_decay": -0.1},
        {"regression": 1.0},
        {"regression": -0.1},
    ],
)
def test_impossible_settings_are_refused(setup, options):
    representation, vae, _ = setup
    with pytest.raises(UserError):
        FlowTraining(
            representation, vae, new_flow(representation, vae, 0, blocks=1, width=4, depth=0), **options
        )


SMALL = {
    "steps": 6,
    "batch_size": 8,
    "blocks": 2,
    "width": 8,
    "depth": 1,
    "progress": False,
    "accelerator": "cpu",
}


def test_fit_in_python_gives_interpreters_for_several_layers_of_one_pass(setup, tmp_path):
    _, vae, _ = setup
    cache = CacheOptions(folder=str(tmp_path / "features"))
    made = fit_layers(small_network(), ["0", "4"], vae, Colours(), cache=cache, output=None, **SMALL)
    assert list(made) == ["0", "4"]
    images = torch.stack([Colours()[i]["image"] for i in range(2)])
    for interpreter in made.values():
        assert interpreter.sample(images, n=3).shape == (2, 3, 3, 32, 32)
    again = fit(small_network(), "4", vae, Colours(), cache=cache, output=None, **SMALL)
    for a, b in zip(again.flow.state_dict().values(), made["4"].flow.state_dict().values()):
        assert torch.equal(a, b)


def test_each_layer_has_the_embedder_that_it_is_given(setup, tmp_path):
    _, vae, _ = setup
    options = {**SMALL, "steps": 2, "cache": CacheOptions(folder=str(tmp_path / "features"))}
    kinds = {"0": "residual", "4": "published"}
    for given, expected in (("residual", ["residual", "residual"]), (kinds, ["residual", "published"])):
        made = fit_layers(
            small_network(),
            ["0", "4"],
            vae,
            Colours(),
            output=None,
            embedder=given,
            embedder_width=2,
            **options,
        )
        assert [each.flow.config["embedder"] for each in made.values()] == expected


def test_each_layer_learns_as_it_is_told(setup, tmp_path):
    _, vae, _ = setup
    options = {**SMALL, "cache": CacheOptions(folder=str(tmp_path / "features"))}
    given = {
        "steps": {"0": 2, "4": 3},
        "batch_size": {"0": 4, "4": 8},
        "optimizer": {"0": "muon_embedder", "4": "muon"},
        "regression": {"0": 0.5, "4": 0.25},
    }
    fit_layers(
        small_network(), ["0", "4"], vae, Colours(), output=str(tmp_path / "{layer}"), **{**options, **given}
    )
    for layer in ("0", "4"):
        config = yaml.safe_load((tmp_path / layer / CONFIG).read_text())
        told = {**config["model"], **config["data"], "steps": config["trainer"]["max_steps"]}
        assert {name: told[name] for name in given} == {name: each[layer] for name, each in given.items()}


def test_a_flow_that_reads_maps_is_known_to_take_longer_and_is_left_as_it_was(setup):
    _, vae, _ = setup
    flows = [
        new_flow(Representation(small_network(), layer), vae, 0, blocks=2, width=8, depth=1)
        for layer in ("0", "4")
    ]
    before = [{key: value.clone() for key, value in flow.state_dict().items()} for flow in flows]
    of_maps, of_vectors = map(_cost, flows)
    assert of_maps > of_vectors > 0
    for flow, kept in zip(flows, before):
        assert all(torch.equal(value, kept[key]) for key, value in flow.state_dict().items())


def test_fit_keeps_a_folder_that_loads_and_numbers_the_next(setup, tmp_path):
    _, vae, _ = setup
    options = {**SMALL, "cache": CacheOptions(folder=str(tmp_path / "features"))}
    pattern = str(tmp_path / "runs" / "{layer}")
    made = fit(small_network(), "4", vae, Colours(), output=pattern, **options)
    fit(small_network(), "4", vae, Colours(), output=pattern, **options)
    assert sorted(each.name for each in (tmp_path / "runs").iterdir()) == ["4", "4_2"]
    loaded = Interpreter.load(tmp_path / "runs" / "4", network=small_network())
    images = torch.stack([Colours()[i]["image"] for i in range(2)])
    assert torch.equal(loaded.encode(images), made.encode(images))
    config = yaml.safe_load((tmp_path / "runs" / "4" / "config.yaml").read_text())
    assert config["model"]["layer"] == "4"
    assert config["model"]["network"] is None
    assert config["trainer"]["max_steps"] == 6
    assert config["model"]["embedder"] == "published"
    longer = fit(small_network(), "4", vae, Colours(), output=pattern, resume=True, **{**options, "steps": 9})
    assert not torch.equal(longer.encode(images), made.encode(images))


def test_training_memory_does_not_hold_the_pictures(setup):
    made = setup[2]()
    stream_items = vars(made.features("4"))
    assert not any(isinstance(each, torch.Tensor) and each.numel() > 10 for each in stream_items.values())
