"""Checkpoints as they lie around: prefixes, wrappers, containers, missing heads; else a sentence."""

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights, resnet18

from invariances import Representation, UserError
from invariances.system.weights import fit_weights, load_weights

SMALL = {"size": 16, "mean": 0.5, "std": 0.5}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.layer1(self.stem(x)).mean((2, 3)))


@pytest.fixture
def trained():
    torch.manual_seed(3)
    network = Net()
    with torch.no_grad():
        for value in network.state_dict().values():
            value.copy_(torch.rand(value.shape) if value.is_floating_point() else value + 3)
    return network


def loaded(tmp_path, content, network=None):
    torch.save(content, tmp_path / "weights.pth")
    return load_weights(network or Net(), tmp_path / "weights.pth", "Net")


def assert_same(network, trained, but=()):
    for name, value in trained.state_dict().items():
        if name not in but:
            assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "model.",
        "_orig_mod.",
        "model._orig_mod.",
        "_orig_mod.module.",
        "module.model.",
        "backbone.",
        "encoder.",
        "module.encoder_q.",
        "ema_model.module.",
        "some.thing.else.",
    ],
)
def test_prefixes_are_taken_off_and_said(tmp_path, capsys, trained, prefix):
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    filled = loaded(tmp_path, state)
    assert_same(filled.module, trained)
    assert filled.lacking == ()
    told = capsys.readouterr().err
    assert (f"took the entries below {prefix!r}" in told) is bool(prefix)
    beside = loaded(tmp_path, {**state, "queue": torch.zeros(3), "n_averaged": torch.tensor(2)})
    assert_same(beside.module, trained)
    assert "2 entries left out (queue, n_averaged)" in capsys.readouterr().err


@pytest.mark.parametrize("inner", ["module", "_orig_mod"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_wrappers_inside_of_names(tmp_path, capsys, trained, inner, prefix):
    state = {
        prefix + name.replace("layer1.", f"layer1.{inner}."): value
        for name, value in trained.state_dict().items()
    }
    assert_same(loaded(tmp_path, state).module, trained)
    assert f"took {inner!r} out of the names" in capsys.readouterr().err


def test_a_network_whose_own_names_have_wrappers(tmp_path, capsys, trained):
    wrapped = nn.Sequential()
    wrapped.add_module("module", Net())
    state = {f"module.{name}": value for name, value in trained.state_dict().items()}
    for content in (state, trained.state_dict()):
        assert_same(loaded(tmp_path, content, wrapped).module.module, trained)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "container",
    [
        "state_dict",
        "model_state_dict",
        "model",
        "state_dict_ema",
        "ema",
        "model_ema",
        "teacher",
        "module",
        "net",
    ],
)
def test_containers(tmp_path, trained, container):
    assert_same(loaded(tmp_path, {"epoch": 3, container: trained.state_dict()}).module, trained)
    nested = {container: {"module": {f"module.{k}": v for k, v in trained.state_dict().items()}}}
    assert_same(loaded(tmp_path, nested).module, trained)


def test_of_two_containers_one_is_taken_and_said(tmp_path, capsys, trained):
    content = {"state_dict_ema": Net().state_dict(), "state_dict": trained.state_dict()}
    assert_same(loaded(tmp_path, content).module, trained)
    assert "took 'state_dict'; 'state_dict_ema' would be there too" in capsys.readouterr().err


def test_of_two_networks_the_one_that_is_meant(tmp_path, capsys, trained):
    queries = {f"module.encoder_q.{k}": v for k, v in trained.state_dict().items()}
    keys = {f"module.encoder_k.{k}": v for k, v in Net().state_dict().items()}
    assert_same(loaded(tmp_path, {**keys, **queries}).module, trained)
    assert "'module.encoder_q.' (and not those below 'module.encoder_k.')" in capsys.readouterr().err
    part = {f"decoder.{k}": v for k, v in Net().state_dict().items() if k.startswith("fc")}
    assert_same(loaded(tmp_path, {**part, **queries}).module, trained)
    two = {f"{name}.{k}": v for name in ("first", "second") for k, v in trained.state_dict().items()}
    with pytest.raises(UserError, match=r"holds several networks that fit \('first\.', 'second\.'\)"):
        loaded(tmp_path, two)


def without(state, *names):
    return {name: value for name, value in state.items() if not name.startswith(names)}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "2 missing (fc.weight, fc.bias), so layers that need them cannot be studied"),
        (
            {"fc.0.weight": torch.zeros(9, 4), "fc.2.weight": torch.zeros(3, 9)},
            "2 entries left out (fc.0.weight",
        ),
        ({"fc.weight": torch.zeros(7, 4), "fc.bias": torch.zeros(7)}, "2 missing (fc.weight, fc.bias)"),
        (
            {"projector.0.weight": torch.zeros(9, 4), "mask_token": torch.zeros(1)},
            "2 entries left out (projector",
        ),
    ],
    ids=["no head", "a projection for a head", "a head of other classes", "parts beside"],
)
def test_weights_may_lack_what_stands_behind_the_layer(tmp_path, capsys, trained, more, told):
    state = {f"module.encoder_q.{name}": value for name, value in without(trained.state_dict(), "fc").items()}
    torch.save(
        {"state_dict": state | {f"module.encoder_q.{k}": v for k, v in more.items()}}, tmp_path / "ssl.pth"
    )
    at = Representation(Net(), "layer1", tmp_path / "ssl.pth", **SMALL)
    assert told in capsys.readouterr().err
    x = torch.zeros(2, 3, 16, 16)
    torch.testing.assert_close(at(x), Representation(trained, "layer1", **SMALL)(x))
    assert not at.has_logits
    assert Representation(trained, "layer1", **SMALL).has_logits
    words = r"needs 'fc.weight' and 1 more, which the given weights lack; choose a layer that comes before"
    with pytest.raises(UserError, match=words):
        Representation(Net(), "fc", tmp_path / "ssl.pth", **SMALL)
    with pytest.raises(UserError, match=words):
        at.with_logits(x)
    assert Representation.layers(Net(), tmp_path / "ssl.pth", **SMALL)["layer1"] == at.shape


@pytest.mark.parametrize("gone", ["stem.weight", "layer1.0", "layer1.1.norm.running_var"])
def test_weights_that_the_layer_needs_are_not_made_up(tmp_path, trained, gone):
    torch.save(without(trained.state_dict(), gone), tmp_path / "part.pth")
    with pytest.raises(UserError, match=f"layer 'layer1' of Net needs '{gone}"):
        Representation(Net(), "layer1", tmp_path / "part.pth", **SMALL)


@pytest.mark.parametrize(
    "state",
    [
        {"layer1.0.se.weight": torch.zeros(4, 4)},  # another architecture, inside of the trunk
        {"norm_pre.weight": torch.zeros(4)},
        {"fc.scale": torch.zeros(4)},
        {"stem.weight": torch.zeros(4, 3, 5, 5)},
    ],
    ids=["inside", "in front", "in the head", "another kernel"],
)
def test_another_architecture_is_refused(tmp_path, trained, state):
    with pytest.raises(
        UserError, match=rf"does not fit Net, it is of another architecture: .*{next(iter(state))}"
    ):
        loaded(tmp_path, {**trained.state_dict(), **state})


def test_files_without_a_state_dict_name_their_keys(tmp_path):
    with pytest.raises(UserError, match=r"holds no state dict \(2 keys \(epoch, note\)\)"):
        loaded(tmp_path, {"epoch": 3, "note": "text"})
    with pytest.raises(UserError, match=r"another architecture: 16 missing .*1 unexpected \(other.weight\)"):
        loaded(tmp_path, {"other.weight": torch.zeros(3)})
    with pytest.raises(UserError, match=r"another architecture: 14 missing"):
        loaded(tmp_path, {name: value for name, value in Net().state_dict().items() if name.startswith("fc")})


def test_tied_weights_are_not_missing(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

    state = Tied().state_dict()
    del state["two.weight"]
    filled = fit_weights(Tied(), state, "x", "Tied")
    assert filled.lacking == ()
    assert torch.equal(filled.module.two.weight, state["one.weight"])


def test_a_state_dict_for_weights(trained):
    x = torch.zeros(2, 3, 16, 16)
    at = Representation(Net(), "layer1", trained.state_dict(), **SMALL)
    torch.testing.assert_close(at(x), Representation(trained, "layer1", **SMALL)(x))
    again = Representation(Net(), "layer1", {"state_dict": trained.state_dict()}, **SMALL)
    assert again.fingerprint() == at.fingerprint()
    by_name = Representation("resnet18", "layer1", resnet18(num_classes=3).state_dict(), size=32)
    assert by_name.spec()["network"] is by_name.spec()["weights"] is None
    with pytest.raises(UserError, match="is not saved with it"):
        Representation.from_spec(by_name.spec())


@pytest.mark.parametrize(
    "given", [ResNet18_Weights.DEFAULT, "ResNet18_Weights.IMAGENET1K_V1", "IMAGENET1K_V1", "DEFAULT"]
)
def test_weights_of_torchvision_by_enum_and_text(tmp_path, monkeypatch, given):
    state = resnet18().state_dict()
    monkeypatch.setattr(type(ResNet18_Weights.DEFAULT), "get_state_dict", lambda *_, **__: state)
    at = Representation("resnet18", "layer1", given, size=32)
    assert torch.equal(at.network.conv1.weight, state["conv1.weight"])
    assert at.class_names[0] == "tench"
    assert Representation.from_spec(at.spec()).fingerprint() == at.fingerprint()
    if "DEFAULT" != given != "IMAGENET1K_V1":
        own = Representation(resnet18(), "layer1", given, size=32)
        assert own.fingerprint() == at.fingerprint()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ResNet50_Weights.DEFAULT, "ResNet50_Weights.IMAGENET1K_V2 belongs to resnet50, not to resnet18"),
        ("ResNet18_Weights.IMAGENET1K_V7", "it has ResNet18_Weights.IMAGENET1K_V1"),
        ("ResNet99_Weights.DEFAULT", "torchvision has no weights 'ResNet99_Weights.DEFAULT'"),
        (True, "weights is True; give the path of a file, a state dict"),
        (resnet18(), r"weights is ResNet; give .* or its state_dict\(\)"),
        ("", "weights is ''; give"),
        ({}, "the given state dict holds no state dict"),
    ],
    ids=str,
)
def test_weights_that_are_none_of_these(given, words):
    with pytest.raises(UserError, match=words):
        Representation("resnet18", "layer1", given)


@pytest.mark.parametrize("source", ["hf_hub:timm/", "hf-hub:timm/", "timm/", ""])
def test_networks_of_timm_by_their_names_on_the_hub(source, monkeypatch):
    name = f"{source}resnet18.a1_in1k"
    at = Representation(name, "layer1", "random", size=32)
    assert at.network_name == "resnet18.a1_in1k"
    assert at.fingerprint() == Representation(at.spec()["network"], "layer1", "random", size=32).fingerprint()
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    with pytest.raises(UserError, match=r"fetch https://huggingface.co/timm/resnet18.a1_in1k/"):
        Representation(name, "layer1")


def test_networks_of_others_on_the_hub(monkeypatch):
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    with pytest.raises(UserError, match=r"'hf-hub:you/net' may not be fetched"):
        Representation("hf_hub:you/net", "layer1")
    monkeypatch.setenv("INVARIANCES_OFFLINE", "0")
    asked = []

    def create(name, pretrained):
        asked.append((name, pretrained))
        return Net()

    monkeypatch.setattr("timm.create_model", create)
    at = Representation("hf_hub:you/net", "layer1", **SMALL)
    assert asked == [("hf-hub:you/net", True)]
    assert (at.network_name, at.spec()["network"]) == ("net", "hf_hub:you/net")
    monkeypatch.setattr("timm.create_model", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match=r"https://huggingface.co/you/net could not be fetched .*division"):
        Representation("hf_hub:you/net", "layer1", **SMALL)


@pytest.mark.parametrize("metadata", [{"classes": "cat,dog"}, {"classes": "5"}, {"architecture": "resnet18"}])
def test_metadata_of_others(tmp_path, trained, metadata):
    from safetensors.torch import save_file

    save_file(trained.state_dict(), tmp_path / "net.safetensors", metadata)
    at = Representation(Net(), "layer1", tmp_path / "net.safetensors", **SMALL)
    assert at.class_names is None
    with pytest.raises(
        UserError, match=r"holds no classifier; .*beside a network's name or module, as weights=…"
    ):
        Representation(str(tmp_path / "net.safetensors"), "layer1")


def test_a_torchscript_module_is_told_from_a_broken_file(trained, tmp_path):
    torch.jit.script(Net().eval()).save(tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"is a TorchScript module; save the state_dict\(\)"):
        load_weights(Net(), tmp_path / "net.pt", "Net")
