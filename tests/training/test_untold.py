"""The flow that is told nothing: kept, gone on with, and shared by whatever needs it."""

import os
import signal
import threading
from dataclasses import replace

import pytest
import torch

from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.training import fit as fitting
from invariances.training.config import FitConfig
from invariances.training.data import FeatureData
from invariances.training.untold import FOLDER, untold_flow


@pytest.fixture
def world_of(setup, world, tmp_path):
    """A setup whose cache is empty, and how flows learn there."""
    data = FeatureData(
        setup.data.images, cache=replace(setup.data.cache, folder=str(tmp_path)), progress=False
    )
    data.config = replace(data.config, held_out=0.25)
    data.read(32)
    config = FitConfig(
        flow=world.flow, data=data.config, learning=world.learning, cache=data.cache, run=world.quiet
    )
    return setup, data, config, tmp_path / FOLDER


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


def test_it_is_trained_once_for_all_networks_and_layers(world_of, monkeypatch):
    setup, data, config, folder = world_of
    first = untold_flow(setup.representation, setup.vae, data, config)
    assert [path.suffix for path in sorted(folder.iterdir())].count(".safetensors") == 1
    assert not list(folder.glob("*.ckpt")), "what is finished needs none"
    monkeypatch.setattr(fitting.Fitting, "trained", None)
    other = Representation(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU()), "1", size=32)
    assert same(untold_flow(other, setup.vae, data, config), first)
    assert same(untold_flow(setup.representation.at("0"), setup.vae, data, replace(config, init="x")), first)


@pytest.mark.parametrize("changed", ["flow", "steps", "seed", "crop", "pictures"])
def test_another_way_to_learn_is_another_flow(world_of, monkeypatch, changed):
    setup, data, config, folder = world_of
    untold_flow(setup.representation, setup.vae, data, config)
    if changed == "flow":
        config = replace(config, flow=replace(config.flow, blocks=1))
    elif changed == "steps":
        config = replace(config, learning=replace(config.learning, steps=3))
    elif changed == "seed":
        config = replace(config, run=replace(config.run, seed=1))
    elif changed == "crop":
        data.config = replace(data.config, crop="random")
    else:
        data.train_sets = [torch.utils.data.Subset(each, range(20)) for each in data.train_sets]
    untold_flow(setup.representation, setup.vae, data, config)
    assert len(list(folder.glob("*.safetensors"))) == 2


def test_an_interrupted_one_goes_on_to_the_bit(world_of, monkeypatch, tmp_path, capsys):
    setup, data, config, folder = world_of
    real, begun = fitting.make_trainer, []
    whole = untold_flow(setup.representation, setup.vae, data, config)
    path = next(folder.glob("*.safetensors"))
    path.unlink()

    class Stop(fitting.Progress):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            begun.append(pl_module.done)
            if pl_module.done == 4 and len(begun) == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    def stopping(run, steps, callbacks, loggers, **more):
        return real(run, steps, [Stop(), *callbacks], loggers, **more)

    monkeypatch.setattr(fitting, "make_trainer", stopping)
    with pytest.raises(KeyboardInterrupt):
        untold_flow(setup.representation, setup.vae, data, config)
    assert not path.exists()
    other = Representation(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU()), "1", size=32)
    assert same(untold_flow(other, setup.vae, data, config), whole), "another network goes on with it"
    assert begun == list(range(1, config.learning.steps + 1))


def test_of_two_processes_one_trains_and_the_other_waits(world_of, monkeypatch, capsys):
    setup, data, config, _ = world_of
    trained, real, both = [], fitting.Fitting.trained, []

    def counted(self):
        trained.append(self)
        return real(self)

    monkeypatch.setattr(fitting.Fitting, "trained", counted)
    made = [
        threading.Thread(
            target=lambda: both.append(untold_flow(setup.representation, setup.vae, data, config))
        )
    ]
    made += [threading.Thread(target=made[0]._target)]
    for each in made:
        each.start()
    for each in made:
        each.join(120)
    assert len(trained) == 1
    assert same(*both)


def test_a_damaged_one_says_what_to_do(world_of):
    setup, data, config, folder = world_of
    untold_flow(setup.representation, setup.vae, data, config)
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=path.name):
        untold_flow(setup.representation, setup.vae, data, config)


def test_its_bar_says_that_it_is_told_nothing(world_of, capsys):
    setup, data, config, _ = world_of
    untold_flow(
        setup.representation, setup.vae, data, replace(config, run=replace(config.run, progress=True))
    )
    err = capsys.readouterr().err
    assert "flow that is told nothing: " in err
    assert f"for {setup.representation.layer}" not in err
