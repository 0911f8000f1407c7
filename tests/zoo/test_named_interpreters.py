"""The published cases through `Interpreter`: a published flow brings its network and autoencoder along."""

import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from invariances import zoo
from invariances.interpreter import Interpreter
from invariances.system.errors import UserError
from invariances.zoo import interpreters, loading
from invariances.zoo.interpreters import find_offer, offers

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"


def case(name):
    """A published model with its stand-in weights, what it returned, and its inputs."""
    if not (REFERENCE / f"{name}.npz").exists():
        pytest.skip("../shared/reference is not here")
    source = importlib.util.spec_from_file_location("fill", REFERENCE / "fill.py")
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    spec = json.loads(gzip.decompress((REFERENCE / f"{name}.json.gz").read_bytes()))
    state = {k: torch.from_numpy(np.asarray(v)) for k, v in module.fill(spec["state_dict"]).items()}
    network = zoo.load_published(zoo.build(name), state).requires_grad_(False)
    expected = {k: torch.from_numpy(v) for k, v in np.load(REFERENCE / f"{name}.npz").items()}
    return network, expected, lambda key, *shape: torch.from_numpy(module.tensor(f"{name}/{key}", shape))


def close(found, expected):
    assert (found - expected.reshape(found.shape)).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.slow
@torch.inference_mode()
def test_a_published_flow_by_name_gives_the_published_numbers(monkeypatch):
    made = {name: case(name) for name in ("cinn_alexnet_aae_fc6", "alexnet", "bigae_animals")}
    for place in (loading, zoo):
        monkeypatch.setattr(place, "load", lambda name, progress=True: made[name][0])
    interpreter = Interpreter.load("cinn_alexnet_aae_fc6")
    assert interpreter.representation.network_name == "alexnet"
    _, expected, tensor = made["alexnet"]
    z = interpreter.represent(tensor("image", 1, 3, 128, 128).tanh())
    close(z.flatten(), expected["fc6.every_101st"])
    _, expected, tensor = made["bigae_animals"]
    close(interpreter.latent(tensor("image", 1, 3, 128, 128).tanh()), expected["mean"])
    close(interpreter.decode(tensor("latent", 1, 128, 1, 1).flatten(1))[:, :, ::4, ::4], expected["decoded"])
    _, expected, tensor = made["cinn_alexnet_aae_fc6"]
    close(interpreter.flow.embed(tensor("representation", 2, 4096, 1, 1)), expected["embedding"])


def test_every_published_flow_has_an_offer():
    found = {each.name: each for each in offers()}
    assert set(zoo.names("flow")) <= set(found)
    assert {each.layer for each in offers("resnet101_animalfaces_10")} >= {"maxpool", "layer4", "softmax"}
    assert len(zoo.entry("resnet101_animalfaces_10")["class_names"]) == 10
    assert not found["cinn_resnet_avgpool"].encodes
    with pytest.raises(UserError, match="several layers"):
        find_offer("alexnet")


def test_a_generator_gives_samples_and_no_reconstruction(monkeypatch):
    class Generator(torch.nn.Module):
        image_size, latent_dim = 32, 8

        def decode(self, latents):
            return latents.new_zeros(len(latents), 3, 32, 32)

    from invariances.flow.config import FlowConfig
    from invariances.flow.flow import ConditionalFlow

    flow = ConditionalFlow(FlowConfig(blocks=1, width=4, depth=0), (8,), (8,)).eval()
    offer = interpreters.Offer("small", "shapes_shape", "logits", "biggan_256")
    monkeypatch.setattr("invariances.interpreter.find_offer", lambda name, layer: offer)
    monkeypatch.setattr("invariances.zoo.runs.knows", lambda name: True)
    monkeypatch.setattr("invariances.interpreter.load_flow", lambda offer: (flow, {}))
    interpreter = Interpreter.load("small", autoencoder=Generator())
    assert interpreter.sample(torch.zeros(1, 3, 64, 64), 3).shape == (1, 3, 3, 32, 32)
    with pytest.raises(UserError, match="no encoder"):
        interpreter.reconstruct(torch.zeros(1, 3, 64, 64))
