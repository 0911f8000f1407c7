"""`invariances models ...` from the command line."""

import hashlib
import json

import pytest

from invariances import zoo
from invariances.zoo import registry


@pytest.fixture
def fake(monkeypatch):
    """A registry with one small published file, beside the real one."""
    content = b"weights"
    extra = {
        "kind": "flow",
        "title": "a small file",
        "address": "http://127.0.0.1:9/small.ckpt",
        "md5": hashlib.md5(content).hexdigest(),
        "file": "invariances/small.ckpt",
        "architecture": {"name": "flow", "latent_dim": 2, "representation_shape": [3]},
        "network": "alexnet",
        "layer": "fc6",
        "autoencoder": "bigae_animals",
        "licence": "MIT",
        "source": "here",
    }
    entries = {**registry.registry(), "small": extra}
    monkeypatch.setattr(registry, "registry", lambda: entries)
    return content


def test_list_has_every_name_and_json_says_the_same(run):
    status, out, _ = run("models", "list")
    assert status == 0
    assert all(name in out for name in zoo.names())
    status, out, _ = run("models", "list", "--kind", "flow", "--json", "true")
    assert status == 0
    assert list(json.loads(out)) == zoo.names("flow")
    assert len(zoo.names("flow")) == 16


def test_unknown_kind_and_name(run):
    status, _, err = run("models", "list", "--kind", "flows")
    assert status == 2
    assert "'flow'" in err
    status, _, err = run("models", "info", "bigae_animal")
    assert status == 2
    assert "'bigae_animals'" in err


def test_info_says_where_and_how(run, cache_home):
    status, out, _ = run("models", "info", "cinn_alexnet_aae_fc6")
    assert status == 0
    for word in (
        "e7128567ee0686d362ed83cfda9fabc1",
        str(cache_home),
        "cinns/alexnet/fc6.ckpt",
        "not downloaded",
    ):
        assert word in out
    status, out, _ = run("models", "info", "alexnet", "--json", "true")
    assert json.loads(out)["preprocessing"]["size"] == 227


def test_download_offline_says_what_to_put_where(run, fake, cache_home):
    status, _, err = run("models", "download", "small")
    assert status == 2
    for word in ("INVARIANCES_OFFLINE", "http://127.0.0.1:9/small.ckpt", str(cache_home), "small.ckpt"):
        assert word in err


def test_a_file_put_by_hand_is_found_and_verified(run, fake, cache_home):
    path = cache_home / "invariances" / "small.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(fake)
    status, out, _ = run("models", "download", "small")
    assert (status, out.strip()) == (0, str(path))
    status, out, _ = run("models", "verify", "--names", "small", "--json", "true")
    assert (status, json.loads(out)) == (0, {"small": "whole"})
    path.write_bytes(b"spoilt")
    status, out, err = run("models", "verify", "--names", "small")
    assert status == 2
    assert "damaged" in out
    assert "small" in err
    path.unlink()


def test_build_of_published_models_and_of_animals_without_photos(run):
    status, _, err = run("models", "build", "alexnet")
    assert status == 2
    assert "models download alexnet" in err
    status, _, err = run("models", "build", "photos")
    assert status == 2
    assert "--photos FOLDER" in err
    status, _, err = run("models", "build", "alexnet_animals")
    assert status == 2
    assert "--photos" in err


def test_build_hands_over_to_the_recipe(run, monkeypatch, tmp_path):
    from invariances.recipes import photos_flow as photos
    from invariances.recipes import shapes_models as shapes

    calls = []
    monkeypatch.setattr(shapes, "build", lambda output: calls.append(("shapes", output)))
    monkeypatch.setattr(photos, "build", lambda *words: calls.append(("photos", *words)))
    assert run("models", "build", "shapes_vae", "--output", tmp_path)[0] == 0
    assert run("models", "build", "photos64", "--photos", "p", "--weights", "w")[0] == 0
    assert calls == [("shapes", str(tmp_path)), ("photos", "models", "p", "w")]
