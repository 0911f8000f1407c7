"""`attack`, `sample`, `texture-bias`, `video` and `mix` from the command line, on a shipped network."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import invariances
from invariances import zoo
from invariances.data.images import to_uint8
from invariances.data.shapes import Shapes
from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter
from invariances.representation.representation import Representation
from invariances.zoo import registry
from invariances.zoo.interpreters import find_offer, layers_in, layers_of, offers, save_flows

LAYERS = ["pool", "logits"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Untrained flows of both networks, as shipped ones are kept."""
    folder = tmp_path_factory.mktemp("flows")
    for network in ("shapes_shape", "shapes_texture"):
        flows = {}
        for layer in LAYERS:
            torch.manual_seed(0)
            shape = Representation(network, layer).shape
            config = FlowConfig(blocks=2, width=16, depth=1, embedder=EmbedderConfig("regression", width=4))
            flows[layer] = ConditionalFlow(config, (64,), shape).eval(), {}
        save_flows(folder / f"{network}.safetensors", flows)
    return folder


@pytest.fixture(autouse=True)
def _named(files, monkeypatch):
    entries = {name: each for name, each in registry.registry().items() if each["kind"] != "interpreter"}
    for network in ("shapes_shape", "shapes_texture"):
        entries[f"{network}_flows"] = {
            "kind": "interpreter",
            "title": "small",
            "network": network,
            "layers": LAYERS,
            "autoencoder": "shapes_vae",
            "package": str(files / f"{network}.safetensors"),
        }
    monkeypatch.setattr(registry, "registry", lambda: entries)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, array in enumerate(to_uint8(Shapes(3, seed=5).images(range(3))).numpy()):
        Image.fromarray(array).save(folder / f"{number}.png")
    return folder


def test_flows_come_back_by_name(files):
    assert layers_in(files / "shapes_shape.safetensors") == LAYERS
    assert layers_of("shapes_shape") == LAYERS
    one = Interpreter.load("shapes_shape", layer="pool")
    two = Interpreter.load(
        "shapes_shape_flows", layer="pool", network=one.representation, autoencoder=one.autoencoder
    )
    assert two.representation.network is one.representation.network, "a representation is shared"
    images = Shapes(2, seed=1).images(range(2))
    assert torch.equal(one.encode(images), two.encode(images))
    assert {each.name for each in offers("shapes_shape")} == {"shapes_shape_flows"}
    assert find_offer("cinn_alexnet_aae_fc6").network == "alexnet"
    assert find_offer("alexnet", "fc6").name == "cinn_alexnet_aae_fc6"
    assert not find_offer("cinn_resnet_avgpool").encodes
    assert zoo.names("interpreter") == ["shapes_shape_flows", "shapes_texture_flows"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["shapes_shape"], "--layer pool | logits"),
        (["shapes_shape", "--layer", "pol"], "'pool'"),
        (["shapes_shap", "--layer", "pool"], "does not exist"),
        (["cinn_alexnet_aae_fc6"], "INVARIANCES_OFFLINE"),
    ],
)
def test_what_has_no_interpreter_is_told_what_there_is(run, pictures, words, told):
    status, _, err = run("sample", words[0], pictures, *words[1:])
    assert status == 2
    assert told in err


def test_models_list_shows_networks_and_layers(run):
    status, out, _ = run("models", "list")
    assert status == 0
    assert "shapes_shape              pool, logits" in " ".join(out.split("\n")) or "pool, logits" in out
    assert "conv5, fc6, fc7, fc8, softmax" in out
    assert run("models", "verify", "--names", "shapes_shape_flows", "--json", "true")[0] == 0


def test_attack_writes_a_grid_and_numbers(run, pictures, tmp_path):
    target = tmp_path / "a.png"
    words = ["shapes_shape", pictures / "0.png", pictures / "1.png", "--layer", "pool", "--output", target]
    status, out, err = run("attack", *words, "--epsilon", "0.1", "--target", "heart", "--n", "2")
    assert status == 0, err
    assert out.split() == [str(target), str(target.with_suffix(".json"))]
    rows = json.loads(target.with_suffix(".json").read_text())["pictures"]
    assert len(rows) == 2
    assert set(rows[0]["movement"]) == set(LAYERS)
    assert rows[0]["largest_change"] == pytest.approx(0.1, abs=1e-4)
    assert Image.open(target).width > 9 * 128
    first = target.read_bytes()
    run("attack", *words, "--epsilon", "0.1", "--target", "heart", "--n", "2")
    assert target.read_bytes() == first
    status, _, err = run("attack", *words, "--target", "hart")
    assert (status, "'heart'" in err) == (2, True)
    assert run("attack", *words, "--method", "cw")[0] == 2


def test_mix_and_texture_bias_write_theirs(run, pictures, tmp_path):
    status, _, err = run("mix", "shapes_shape", pictures, "--layer", "logits", "--output", tmp_path / "m.png")
    assert status == 0, err
    assert len(json.loads((tmp_path / "m.json").read_text())["kept"]) == 3
    words = ["shapes_shape", "shapes_texture", pictures / "0.png", "--layer", "pool", "--n", "3"]
    status, _, err = run("texture-bias", *words, "--output", tmp_path / "t.png")
    assert status == 0, err
    (row,) = json.loads((tmp_path / "t.json").read_text())["pictures"]
    assert set(row["first"]) == {"cosine", "shape", "texture"}


def test_sample_takes_names(run, pictures, tmp_path):
    words = ["shapes_texture", pictures / "2.png", "--layer", "logits", "--n", "2"]
    for more in ((), ("--diverse",)):
        status, out, err = run("sample", *words, *more, "--output", tmp_path / f"s{len(more)}.png")
        written = [str(tmp_path / f"s{len(more)}.{ending}") for ending in ("png", "json")]
        assert (status, out.split()) == (0, written), err
        told = json.loads((tmp_path / f"s{len(more)}.json").read_text())
        assert (told["layer"], told["n"], told["diverse"]) == ("logits", 2, bool(more))
        (row,) = told["pictures"]
        assert -1 <= row["cosine_of_samples"] <= row["cosine_of_reconstruction"] <= 1
        assert row["agreement"] in (0, 0.5, 1)
    assert (tmp_path / "s0.png").read_bytes() != (tmp_path / "s1.png").read_bytes()


def test_video_writes_a_clip(run, pictures, tmp_path, monkeypatch):
    av = pytest.importorskip("av", reason="videos need PyAV: pip install 'invariances[app]'")
    target = tmp_path / "v.mp4"
    words = ["shapes_shape", pictures / "0.png", "--layer", "pool", "--output", target]
    status, _, err = run("video", *words)
    assert status == 0, err
    with av.open(str(target)) as file:
        assert file.streams.video[0].frames == 96
    assert json.loads((tmp_path / "v.json").read_text())["frames"] == 96
    status, _, err = run("video", *words[:2], "--clip", target, "--layer", "pool", "--output", target)
    assert (status, "elsewhere" in err) == (2, True)
    status, _, err = run(
        "video", *words[:2], "--clip", "none.mp4", "--layer", "pool", "--output", tmp_path / "w.mp4"
    )
    assert (status, "does not exist" in err) == (2, True)
    status, _, err = run("video", "shapes_shape", pictures, "--layer", "pool", "--output", tmp_path / "w.mp4")
    assert (status, "is a folder" in err) == (2, True)
    assert not (tmp_path / "w.mp4").exists()


def test_demo_without_streamlit_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setattr("invariances.system.extras.find_spec", lambda name: None)
    status, _, err = run("demo")
    assert status == 2, err
    assert "pip install 'invariances[app]'" in err


def test_streamlit_run_and_the_command_have_the_same_settings():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    from invariances.cli.demo import SETTINGS

    text = (Path(invariances.__file__).parent / ".streamlit" / "config.toml").read_text()

    def flat(found, start=""):
        for key, value in found.items():
            if isinstance(value, dict):
                yield from flat(value, f"{start}{key}.")
            else:
                yield f"{start}{key}", str(value).lower() if isinstance(value, bool) else str(value)

    told = dict(flat(tomllib.loads(text)))
    assert told.pop("server.address") == "localhost"
    assert told == SETTINGS
