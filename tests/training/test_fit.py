from dataclasses import replace

import pytest
import torch
from torch import nn

from invariances.data.identity import Identity
from invariances.interpreter import Interpreter
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.training import fit as fitting
from invariances.training.config import CacheConfig, FitConfig, RunConfig
from invariances.training.fit import fit, fit_config, fit_layers
from invariances.training.run_folder import KEPT_OUT, TRAINED_ON, alone, read_config
from invariances.training.trainer import settled


@pytest.fixture
def options(world, tmp_path):
    """Of a short run that keeps nothing."""
    cache = CacheConfig(folder=str(tmp_path / "features"))
    learning = replace(world.learning, steps=6, ema=0.0)
    return {"flow": world.flow, "learning": learning, "cache": cache, "run": world.quiet}


def same(one, other):
    theirs = other.flow.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.flow.state_dict().items())


def test_several_layers_of_one_pass_are_those_fitted_one_by_one(setup, world, options):
    network, vae = world.small_network(), setup.vae
    made = fit_layers(network, ["0", "4"], vae, world.Colours(), config=FitConfig(**options))
    assert list(made) == ["0", "4"]
    images = torch.stack([world.Colours()[i]["image"] for i in range(2)])
    for interpreter in made.values():
        assert interpreter.sample(images, n=3).shape == (2, 3, 3, 32, 32)
    assert same(fit(network, "4", vae, world.Colours(), **options), made["4"])


def test_a_folder_loads_and_the_next_is_numbered(setup, world, options, tmp_path):
    network, vae = world.small_network(), setup.vae
    options["run"] = replace(options["run"], output=str(tmp_path / "runs" / "{layer}"))
    made = fit(network, "4", vae, world.Colours(), **options)
    fit(network, "4", vae, world.Colours(), **options)
    assert sorted(each.name for each in (tmp_path / "runs").iterdir()) == ["4", "4_2"]
    folder = tmp_path / "runs" / "4"
    loaded = Interpreter.load(folder, network=network)
    images = torch.stack([world.Colours()[i]["image"] for i in range(2)])
    assert torch.equal(loaded.encode(images), made.encode(images))
    config = read_config(folder)
    assert (config.layer, config.network, config.learning.steps) == ("4", None, 6)
    options["run"] = replace(options["run"], resume=True)
    options["learning"] = replace(options["learning"], steps=9)
    longer = fit(network, "4", vae, world.Colours(), **options)
    assert not torch.equal(longer.encode(images), made.encode(images))


def test_a_run_explains_itself_whole(setup, world, options, tmp_path):
    options["run"] = replace(options["run"], output=str(tmp_path / "run"))
    cut = Representation("shapes_shape", "stage2", size=32, token="patch")
    setup.vae.published_name = None
    fit(cut, "stage3", setup.vae, world.Colours(), held_out=world.Colours(8, seed=1), **options)
    config = read_config(tmp_path / "run")
    assert (config.network, config.layer, config.size, config.token) == (
        "shapes_shape",
        "stage3",
        32,
        "patch",
    )
    assert (config.data.images, config.data.held_out) == (None, None)


def test_held_out_may_be_a_number_of_pictures(setup, world, options, tmp_path):
    options["run"] = replace(options["run"], output=str(tmp_path / "run"))
    fit(world.small_network(), "4", setup.vae, world.Colours(), held_out=6, **options)
    assert len(Identity.load(tmp_path / "run" / KEPT_OUT).names) == 6
    assert read_config(tmp_path / "run").data.held_out == 6


def test_the_pictures_of_a_run_are_kept_and_apart(setup, world, options, tmp_path):
    options["run"] = replace(options["run"], output=str(tmp_path / "run"))
    fit(world.small_network(), "4", setup.vae, world.Colours(), **options)
    trained, kept = (Identity.load(tmp_path / "run" / name) for name in (TRAINED_ON, KEPT_OUT))
    assert len(trained) + len(kept) == 40
    assert not set(trained.hashes.tolist()) & set(kept.hashes.tolist())


def test_other_pictures_are_not_gone_on_with(setup, world, options, tmp_path):
    options["run"] = replace(options["run"], output=str(tmp_path / "run"))
    fit(world.small_network(), "4", setup.vae, world.Colours(), **options)
    options["run"] = replace(options["run"], resume=True)
    with pytest.raises(UserError, match="other pictures"):
        fit(world.small_network(), "4", setup.vae, world.Colours(60, seed=2), **options)


def test_frozen_parts_go_where_the_run_says_and_nothing_else_moves_them(setup, world, options, monkeypatch):
    moved = []
    to = nn.Module.to

    def noted(self, *args, **kwargs):
        if isinstance(self, Representation) or self is setup.vae:
            moved.append((type(self).__name__, str(args[0] if args else kwargs)))
        return to(self, *args, **kwargs)

    monkeypatch.setattr(fitting, "device_of", lambda run: torch.device("cpu", 0))
    monkeypatch.setattr(nn.Module, "to", noted)
    fit(world.small_network(), "4", setup.vae, world.Colours(), **options)
    assert moved == [("Representation", "cpu:0"), ("VAE", "cpu:0")]


def test_loggers_of_ones_own_come_beside_the_others(setup, world, options, tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    options["run"] = replace(options["run"], output=str(tmp_path / "run"))
    own = CSVLogger(tmp_path / "own", flush_logs_every_n_steps=1)
    fit(world.small_network(), "4", setup.vae, world.Colours(), loggers=[own], **options)
    assert len(world.rows(tmp_path / "run")) == 6
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert list((tmp_path / "own").rglob("metrics.csv"))


def test_two_runs_do_not_share_a_folder(tmp_path):
    with alone(tmp_path), pytest.raises(UserError, match="another process works in"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


@pytest.mark.parametrize("missing", ["network", "layer", "autoencoder", "images"])
def test_what_is_missing_is_named(missing, tmp_path):
    config = FitConfig(
        "resnet18", "layer1", autoencoder="shapes_vae", run=RunConfig(output=str(tmp_path / "run"))
    )
    config = replace(config, data=replace(config.data, images=str(tmp_path)))
    changed = (
        replace(config, data=replace(config.data, images=None))
        if missing == "images"
        else replace(config, **{missing: None})
    )
    with pytest.raises(UserError, match=f"--{missing} is missing"):
        fit_config(changed)


@pytest.mark.parametrize(("computes", "used"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bfloat16_is_used_where_it_is_not_emulated(computes, used, monkeypatch, capsys):
    monkeypatch.setattr("invariances.system.machine.bfloat16", lambda: computes)
    run = RunConfig(device="cpu", precision="bf16-mixed")
    assert settled(run) == replace(run, precision=used)
    assert ("does not compute in bfloat16" in capsys.readouterr().err) != computes
    assert settled(RunConfig(device="cpu")).precision == "32-true"


def test_a_run_settles_its_precision_before_it_begins(setup, world, options, tmp_path, monkeypatch):
    monkeypatch.setattr("invariances.system.machine.bfloat16", lambda: False)
    options = {**options, "run": replace(world.quiet, output=str(tmp_path / "run"), precision="bf16-mixed")}
    assert fit(setup.representation, "4", setup.vae, world.Colours(), **options).precision == "32-true"
    assert read_config(tmp_path / "run").run.precision == "32-true"
