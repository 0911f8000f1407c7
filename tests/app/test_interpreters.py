"""Pages on other interpreters than those of drawn shapes: nothing is made for these alone."""

import re

import pytest
import torch

from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.flow.layered import LayeredFlow
from invariances.representation.representation import Representation
from invariances.zoo import registry
from invariances.zoo.interpreters import save_flows, save_layered

testing = pytest.importorskip("streamlit.testing.v1")

LAYERS = ["pool", "logits"]


@pytest.fixture(autouse=True)
def _empty_place(tmp_path, monkeypatch):
    import streamlit as st

    st.cache_resource.clear()
    monkeypatch.chdir(tmp_path)
    yield
    st.cache_resource.clear()


def offered(monkeypatch, **entries):
    """The registry with these interpreters in place of its own, and these generators."""
    known = {name: each for name, each in registry.registry().items() if each["kind"] != "interpreter"}
    monkeypatch.setattr(registry, "registry", lambda: {**entries, **known})


def entry(network, file, autoencoder, **more):
    return {
        "kind": "interpreter", "title": "small", "network": network, "layers": LAYERS,
        "autoencoder": autoencoder, "package": str(file), **more,
    }  # fmt: skip


def visit(name):
    def script(name):
        import importlib

        importlib.import_module(f"invariances.app.{name}").page()

    app = testing.AppTest.from_function(script, kwargs={"name": name}, default_timeout=120).run()
    assert not app.exception
    return app


def texts(app):
    return [each.proto.body for each in app.get("html")] + [each.value for each in app.caption]


def pictures(app):
    return [each for each in texts(app) if "<img" in each]


@pytest.fixture
def layered(tmp_path, monkeypatch):
    """One flow of photos for two layers of a network, beside one of drawn shapes."""
    torch.manual_seed(0)
    shapes = {name: Representation("shapes_shape", name).shape for name in LAYERS}
    config = FlowConfig("maps", blocks=1, width=16)
    flow = LayeredFlow(config, (32, 8, 8), shapes).eval()
    file = save_layered(tmp_path / "photos.safetensors", flow, {name: {} for name in LAYERS})
    small = FlowConfig(blocks=1, width=8, depth=1, embedder=EmbedderConfig("regression", width=4))
    flows = {
        name: (ConditionalFlow(small, (64,), Representation("shapes_texture", name).shape).eval(), {})
        for name in LAYERS
    }
    drawn = save_flows(tmp_path / "drawn.safetensors", flows)
    offered(
        monkeypatch,
        drawn=entry("shapes_texture", drawn, "shapes_vae"),
        photos=entry("shapes_shape", file, "photos64_ae", one_flow=True),
    )


@pytest.mark.usefixtures("layered")
def test_a_flow_that_makes_pictures_comes_first_and_starts_with_them():
    app = visit("layers")
    assert app.selectbox(key="network").value == "shapes_shape"
    assert app.selectbox(key="view").options == ["all layers", *LAYERS]
    assert app.get("button_group")[0].options[:2] == ["Made by the flow", "Drawn"]
    assert len([each for each in app.button if each.key and each.key.startswith("tile-")]) == 12
    assert app.session_state["shown"] == ["shapes_shape:1"]
    code = next(each.value for each in app.code if "layer_views" in each.value)
    assert (
        "made_pictures(Interpreter.load('shapes_shape', layer='pool'), 12, seeded('made', 5))[1 : 2]" in code
    )
    assert "from invariances.experiments.samples import made_pictures" in code
    exec(code.replace("for layer in ['pool', 'logits']", "for layer in ['logits']"), found := {})
    made = next(each for each in texts(app) if "inv-layer" in each).split("<b>logits</b>")[1]
    from invariances.app.figures import address

    assert re.findall("src='([^']*)'", made) == [address(each) for each in found["view"].samples]
    app.selectbox(key="network").select("shapes_texture").run()
    assert not app.exception
    assert app.session_state["shown"] == ["drawn-1"], "what is there at first goes with the network"


@pytest.mark.usefixtures("layered")
def test_made_pictures_are_mixed_attacked_and_kept():
    app = visit("mixing")
    assert app.session_state["shown"] == ["shapes_shape:1", "shapes_shape:4", "shapes_shape:9"]
    assert pictures(app)[0].count("<img") == 3 + 3 * 4
    app.button(key="tile-2").click().run()
    assert app.session_state["pictures"] == [f"shapes_shape:{k}" for k in (1, 4, 9, 2)]
    app.button(key="tile-4").click().run()
    assert app.session_state["pictures"] == [f"shapes_shape:{k}" for k in (1, 9, 2)]
    assert len(pictures(visit("attacks"))) == 3


class Generator(torch.nn.Module):
    """Decodes, and has no encoder, as BigGAN."""

    image_size, latent_dim = 64, 8

    def decode(self, latents):
        return latents[:, :3, None, None].tanh().expand(-1, 3, 64, 64)

    def fingerprint(self):
        return ""


def test_texture_bias_without_an_encoder_shows_samples_and_says_why_no_more(tmp_path, monkeypatch):
    entries = {}
    for network in ("shapes_shape", "shapes_texture"):
        torch.manual_seed(0)
        config = FlowConfig(blocks=1, width=8, depth=1, embedder=EmbedderConfig("regression", width=4))
        flows = {
            name: (ConditionalFlow(config, (8,), Representation(network, name).shape).eval(), {})
            for name in LAYERS
        }
        file = save_flows(tmp_path / f"{network}.safetensors", flows)
        entries[network + "_flows"] = entry(network, file, "released")
    offered(monkeypatch, **entries, released={"kind": "generator", "title": "one", "package": str(file)})
    monkeypatch.setattr("invariances.interpreter.autoencoder_of", lambda source: Generator())
    app = visit("texture_bias")
    assert not app.error
    first, second, third = pictures(app)
    assert (first.count("<img"), second.count("<img"), third.count("<img")) == (1, 6, 6)
    assert any("there are samples, no reconstruction" in each for each in texts(app))
    assert "reconstruction'" not in "".join(pictures(app))
