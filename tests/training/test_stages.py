import math
import signal
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Callback

from invariances.features.stream import Features, FeatureStream
from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.system.errors import UserError
from invariances.training import stages
from invariances.training.checkpoints import load_checkpoint
from invariances.training.config import LearningConfig
from invariances.training.muon import MuonAdam
from invariances.training.schedule import rate_factor
from invariances.training.start import start_embedder
from invariances.training.stopping import Stopped
from invariances.zoo.runs import LAST


class Kill(Exception):
    """Stands for SIGKILL: nothing is saved on the way out."""


def kill():
    raise Kill


def terminate():
    signal.raise_signal(signal.SIGTERM)


def stopped(run):
    """How many steps of its stage a run did that a signal stops."""
    with pytest.raises(KeyboardInterrupt) as interrupt:
        run()
    assert isinstance(interrupt.value.__cause__, Stopped)
    return interrupt.value.__cause__.step


def parts_of(folder):
    """All tensors and numbers of a checkpoint by a path of keys, but for the times in Lightning's counters."""

    def flat(value, path):
        if isinstance(value, dict):
            return {key: each for k, v in value.items() for key, each in flat(v, (*path, k)).items()}
        if isinstance(value, (list, tuple)):
            return {key: each for k, v in enumerate(value) for key, each in flat(v, (*path, k)).items()}
        return {path: value}

    found = load_checkpoint(folder / LAST)
    return flat({key: found[key] for key in ("state_dict", "optimizer_states", "callbacks", "loss")}, ())


def assert_same_run(world, whole, folder):
    assert world.rows(folder) == world.rows(whole)
    expected, found = parts_of(whole), parts_of(folder)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        same = torch.equal(value, found[key]) if isinstance(value, torch.Tensor) else value == found[key]
        assert same, key


@pytest.fixture(scope="module")
def kinds(world):
    """The layer, flow and learning of runs of each kind; regressions take the first four of ten steps."""
    learning = replace(world.learning, regression=0.4)
    continuous = replace(world.flow, transform="continuous")
    return {
        "published": ("4", world.flow, world.learning),
        "muon": ("4", world.flow, replace(learning, optimizer="muon", weight_decay=0.1)),
        "regression of vectors": ("4", world.regression, learning),
        "regression of maps": ("0", world.regression, learning),
        "continuous": ("4", continuous, replace(learning, optimizer="muon")),
        "continuous after regression": ("4", replace(world.regression, transform="continuous"), learning),
    }


KINDS = [
    "published",
    "muon",
    "regression of vectors",
    "regression of maps",
    "continuous",
    "continuous after regression",
]


@pytest.fixture
def run_of(setup, kinds, train):
    """Makes a run of a kind."""

    def make(kind, folder, **options):
        layer, flow, learning = kinds[kind]
        return train(setup.of(layer), folder, **{"flow": flow, "learning": learning, **options})

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_reports_both_losses_and_draws_samples_of_the_flow_alone(world, run_of, tmp_path, kind):
    run_of(kind, tmp_path, samples_every=2)
    found = world.rows(tmp_path)
    first = 4 if "regression" in kind else 0
    assert [int(row["step"]) for row in found] == list(range(1, 11))
    assert [row["stage"] for row in found] == ["embedder"] * first + ["flow"] * (10 - first)
    for row in found:
        likelihood = row["stage"] == "embedder" or "continuous" not in kind
        assert (row["nll"] != "", row["matching"] != "") == (likelihood, not likelihood)
    assert found[-1]["held_out_nll"]
    assert sum(row["held_out_nll"] != "" for row in found) >= 4
    for which in ("held_out", "training"):
        steps = sorted(
            int(each.stem.rsplit("_", 1)[1]) for each in (tmp_path / "samples").glob(f"{which}_*.png")
        )
        assert steps == list(range(first, 11, 2))
    assert any("events" in each.name for each in (tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_killed_runs_go_on_to_the_bit(world, run_of, tmp_path, kind):
    run_of(kind, tmp_path / "whole")
    first = 4 if "regression" in kind else 0
    for stop in (0, 1, 3, 4, 7):
        folder = tmp_path / f"stopped {stop}"
        steps = stopped(lambda folder=folder, stop=stop: run_of(kind, folder, act=(stop, terminate)))
        assert steps == (stop + 1 if stop < first else stop + 1 - first)
        run_of(kind, folder, resume=True)
        assert_same_run(world, tmp_path / "whole", folder)
    for death in (2, 6, 8):
        folder = tmp_path / f"killed {death}"
        with pytest.raises(Kill):
            run_of(kind, folder, act=(death, kill), checkpoint_every=2)
        assert len(world.rows(folder)) == death
        run_of(kind, folder, resume=True)
        assert_same_run(world, tmp_path / "whole", folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"flow": FlowConfig(blocks=3, width=8, depth=1)}, "another flow"),
        ({"learning": LearningConfig(steps=10, batch_size=8, optimizer="muon")}, "another learning"),
        ({"seed": 8}, "another seed"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(run_of, tmp_path, change, named):
    stopped(lambda: run_of("published", tmp_path, act=(4, terminate)))
    with pytest.raises(UserError, match=named):
        run_of("published", tmp_path, resume=True, **change)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_muon_moves_the_matrices_where_it_is_told_to(setup, world, train, tmp_path, optimizer):
    seen = {}

    class Watch(Callback):
        def on_train_end(self, trainer, pl_module):
            names = {id(each): name for name, each in pl_module.learner.named_parameters()}
            seen["all"] = {name for name, each in pl_module.learner.named_parameters() if each.dim() > 1}
            seen["moved"] = {
                names[id(each)]
                for group in trainer.optimizers[0].param_groups
                if group.get("muon") is not None
                for each in group["params"]
            }

    train(setup, tmp_path, act=Watch(), learning=replace(world.learning, optimizer=optimizer))
    assert seen["moved"] == (seen["all"] if optimizer == "muon" else set())


@pytest.mark.parametrize("layer", ["4", "0"])
def test_an_embedder_learns_first_and_then_the_flow_alone(setup, world, train, tmp_path, layer):
    seen = {}

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, *args):
            learner = pl_module.learner
            embedder = getattr(learner, "embedder", learner)
            seen[pl_module.step] = {key: each.clone() for key, each in embedder.named_parameters()}

    learning = replace(world.learning, regression=0.4)
    flow = train(setup.of(layer), tmp_path, act=Watch(), flow=world.regression, learning=learning)
    assert any(not torch.equal(seen[0][key], seen[4][key]) for key in seen[0])
    last = dict(flow.embedder.named_parameters())
    assert all(torch.equal(seen[4][key], last[key]) for key in seen[4])
    rates = [float(row["learning_rate"]) for row in world.rows(tmp_path)]
    assert 0.01 < max(rates[:4]) <= 0.02
    assert max(rates[4:]) <= 1e-3


def test_a_regression_embedder_finds_what_is_no_line_of_the_representation():
    class Pairs:
        """A latent that is a product, a square and an absolute value of the representation's entries."""

        n = 3000

        def __init__(self):
            z = torch.randn(self.n, 6, generator=torch.Generator().manual_seed(0))
            self.z, self.latent = z, torch.stack([z[:, 0] * z[:, 1], z[:, 2] ** 2, z[:, 3].abs()], dim=1)

        def shape(self, layer):
            return (6,)

        def batch(self, indices, layer):
            return (*self.moments(indices), self.z[indices])

        def moments(self, indices):
            return self.latent[indices], torch.full_like(self.latent[indices], -10.0)

    features = Features(Pairs(), "x")
    found = {}
    for kind in ("published", "regression"):
        torch.manual_seed(0)
        flow = ConditionalFlow(
            FlowConfig(blocks=1, width=8, embedder=EmbedderConfig(kind, width=4)), (3,), (6,)
        )
        start_embedder(flow, features)
        if kind == "regression":
            stream = FeatureStream(features, 128)
            matrices = [each for each in flow.embedder.parameters() if each.dim() > 1]
            optimizer = MuonAdam(flow.embedder.parameters(), matrices, lr=0.02)
            for step in range(200):
                latent, z, _ = stream.at(step)
                optimizer.zero_grad()
                (-flow.embedder.log_prob(latent, flow.embedder(z)).mean()).backward()
                optimizer.step()
        told = flow.eval().embed(features.batch(torch.arange(3000))[2]).detach()[:, :6]
        told = torch.cat([told, torch.ones(3000, 1)], dim=1)
        wanted = features.batch(torch.arange(3000))[0]
        left = wanted - told @ torch.linalg.lstsq(told, wanted).solution
        found[kind] = float((left.var(0) / wanted.var(0)).mean())
    assert found["regression"] < 0.45 < 0.8 < found["published"], found


def test_signals_belong_to_their_owners_again_afterwards(run_of, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run_of("published", tmp_path / "whole")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    stopped(lambda: run_of("published", tmp_path / "part", act=(1, terminate)))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_networks_under_study_are_neither_trained_nor_saved(setup, run_of, tmp_path):
    frozen = setup.representation, setup.vae
    before = [{key: value.clone() for key, value in each.state_dict().items()} for each in frozen]
    run_of("published", tmp_path)
    checkpoint = load_checkpoint(tmp_path / LAST)
    assert {key.split(".")[0] for key in checkpoint["state_dict"]} == {"learner"}
    parts = [*setup.representation.modules(), *setup.vae.modules()]
    assert not any(each.training for each in parts if each is not setup.representation)
    assert not any(each.grad is not None for module in frozen for each in module.parameters())
    for part, state in zip(frozen, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in part.state_dict().items())


def test_a_loss_that_is_not_finite_stops_with_a_sentence_and_keeps_the_last_good_checkpoint(
    run_of, tmp_path, monkeypatch
):
    learners, state = [], {}
    init = stages.Stage.__init__

    def remember(self, learner, *args, **options):
        init(self, learner, *args, **options)
        learners.append(learner)

    def poison():
        state["before"] = (tmp_path / LAST).read_bytes()
        with torch.no_grad():
            for each in learners[0].parameters():
                each.fill_(math.nan)

    monkeypatch.setattr(stages.Stage, "__init__", remember)
    with pytest.raises(UserError, match="no longer finite at step 6"):
        run_of("published", tmp_path, act=(5, poison), checkpoint_every=2)
    assert (tmp_path / LAST).read_bytes() == state["before"]
    assert load_checkpoint(tmp_path / LAST)["global_step"] == 4


def test_the_loss_falls_and_the_flow_learns_the_layer(setup, world, train, tmp_path):
    learning = replace(world.learning, steps=400, learning_rate=5e-3, warmup=0.05)
    flow = train(setup, tmp_path, learning=learning)
    found = [float(row["held_out_nll"]) for row in world.rows(tmp_path) if row["held_out_nll"]]
    assert min(found) < found[0] - 0.3
    assert not flow.training


def test_learning_rate_by_default_is_the_published_one(setup, world, train, tmp_path):
    train(setup, tmp_path, learning=LearningConfig(steps=2, batch_size=8))
    assert float(world.rows(tmp_path)[0]["learning_rate"]) == pytest.approx(4.5e-6 * 8)


def test_rate_factor():
    constant, cosine = rate_factor("constant", 4, 100), rate_factor("cosine", 0, 100)
    assert [constant(step) for step in (0, 1, 3, 50)] == [0.25, 0.5, 1, 1]
    assert [cosine(step) for step in (0, 50, 100)] == pytest.approx([1, 0.5, 0])
