"""Any network, cut at any named layer: values against plain hooks, shapes, preprocessing, weights, errors."""

import copy
import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock
from torchvision.models.swin_transformer import SwinTransformer

from invariances import Representation, UserError, load_images
from invariances.representation.preprocessing import Preprocessing
from invariances.representation.representation import Representations, survey
from invariances.representation.sources import find
from invariances.zoo.small_resnet import SmallResNet

SMALL = {"size": 32, "mean": 0.5, "std": 0.5}
ASIS = {"size": 16, "mean": 0.5, "std": 0.5}


def images(n: int = 2, size: int = 32) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def by_hook(network: nn.Module, name: str, x: Tensor) -> Tensor:
    """What a module returns, copied at once: the plainest way to have it."""
    kept = []
    handle = network.get_submodule(name).register_forward_hook(
        lambda module, given, output: kept.append(
            (output[0] if isinstance(output, tuple) else output).clone()
        )
    )
    with torch.no_grad():
        network(x)
    handle.remove()
    return kept[-1]


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = self.relu(self.conv2(x))
        return self.fc(self.pool(x).flatten(1))


class Branching(Plain):
    """Control flow that depends on values."""

    def forward(self, x):
        x = self.norm(self.conv(x))
        if float(x.detach().mean()) > -1e9:
            x = self.relu(x)
        return self.fc(self.pool(self.conv2(x)).flatten(1))


class Statements(Plain):
    """In-place operations whose results nobody takes."""

    def forward(self, x):
        x = self.norm(self.conv(x))
        self.relu(x)
        x.add_(1.0)
        return self.fc(self.pool(self.conv2(x)).flatten(1))


class Structured(nn.Module):
    """Outputs that are a tuple, a mapping, no tensor, five-dimensional, sequences, and windows for a batch."""

    class Give(nn.Module):
        def __init__(self, make):
            super().__init__()
            self.make = make

        def forward(self, x):
            return self.make(x)

    def __init__(self):
        super().__init__()
        give = self.Give
        self.pair = give(lambda x: (None, x * 2, x))
        self.mapping = give(lambda x: {"aux": x, "out": x + 1})
        self.nothing = give(lambda x: "text")
        self.five = give(lambda x: x[..., None])
        self.sequence = give(lambda x: x.flatten(2)[:, :, :7])
        self.windows = give(lambda x: x.flatten(0, 1).flatten(1))
        self.idle = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        for module in (self.nothing, self.five, self.sequence, self.windows):
            module(x)
        return {"logits": self.mapping(self.pair(x)[1])["out"].mean((2, 3))}


# ------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("kind", [Plain, Branching, Statements])
@pytest.mark.parametrize("layer", ["conv", "norm", "relu", "conv2", "pool", "fc"])
def test_values_are_what_the_module_returned(kind, layer):
    network = kind().eval()
    x = images()
    true = by_hook(copy.deepcopy(network), layer, x)
    true = true.flatten(1) if layer == "pool" else true
    representation = Representation(network, layer, **SMALL)
    z, logits = representation.with_logits(x)
    torch.testing.assert_close(representation(x), true)
    torch.testing.assert_close(z, true)
    with torch.no_grad():
        torch.testing.assert_close(logits, network(x))
        torch.testing.assert_close(representation.logits(x), network(x))
    assert representation.shape == tuple(true.shape[1:])


@pytest.mark.parametrize("kind", [Plain, Branching])
def test_in_place_activation_after_a_tap_does_not_reach_it(kind):
    network = kind()
    network.norm.bias.data.fill_(-3.0)  # the activation would make all of it zero
    representation = Representation(network, "norm", **SMALL)
    z, _ = representation.with_logits(images())
    assert z.mean() < -2
    many = Representation.many(network, ["norm", "relu"], **SMALL)(images())
    assert many["norm"].mean() < -2
    assert many["relu"].min() >= 0


def test_calls_of_a_shared_module():
    network = Plain().eval()
    x = images()
    with torch.no_grad():
        first = network.norm(network.conv(x)).relu()
    last = by_hook(network, "relu", x)
    assert Representation(network, "relu", **SMALL).shape == (6, 32, 32)
    torch.testing.assert_close(Representation(network, "relu", **SMALL)(x), last)
    torch.testing.assert_close(Representation(network, "relu#1", **SMALL)(x), first)
    torch.testing.assert_close(Representation(network, "relu#2", **SMALL)(x), last)
    with pytest.raises(UserError, match=r"'relu' of Plain has 2 calls, so no call 3"):
        Representation(network, "relu#3", **SMALL)(x)


def test_input_logits_softmax():
    network = Plain()
    x = images(size=20)
    at = Representation(network, "input", size=16, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), antialias=False)
    resized = nn.functional.interpolate((x + 1) / 2, (16, 16), mode="bilinear", align_corners=False)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    true = (resized - mean) / std
    torch.testing.assert_close(at(x), true)
    with torch.no_grad():
        logits = network.eval()(true)
    torch.testing.assert_close(at.with_logits(x)[1], logits)
    torch.testing.assert_close(at.at("logits")(x), logits)
    torch.testing.assert_close(at.at("softmax")(x), logits.softmax(1))


def test_input_is_not_what_a_network_made_of_it_in_place():
    class Clamps(Plain):
        def forward(self, x):
            return super().forward(x.clamp_(min=0))

    x = images()
    z, _ = Representation(Clamps(), "input", **SMALL).with_logits(x)
    torch.testing.assert_close(z, x)


def test_a_module_of_a_reserved_name_is_the_module():
    network = nn.Sequential()
    network.add_module("input", nn.Conv2d(3, 8, 3, padding=1))
    assert Representation(network, "input", **SMALL).shape == (8, 32, 32)


def test_many_layers_in_one_pass():
    network = Plain()
    many = Representation.many(network, ["input", "conv2", "softmax", "conv"], **SMALL)
    x = images()
    together, logits = many(x), many.with_logits(x)[1]
    for each in many:
        torch.testing.assert_close(together[each.layer], each(x))
    torch.testing.assert_close(together["softmax"], logits.softmax(1))
    assert list(together) == many.names == ["input", "conv2", "softmax", "conv"]
    joined = Representations([many["conv"], many["conv"].at("fc")])
    torch.testing.assert_close(joined(x)["fc"], logits)
    with pytest.raises(UserError, match=r"do not share one network"):
        Representations([many["conv"], Representation(network, "fc", **SMALL)])


def test_one_pass_is_one_pass():
    class Counts(Branching):
        runs = 0

        def forward(self, x):
            Counts.runs += 1
            return super().forward(x)

    many = Representation.many(Counts(), ["conv", "conv2", "fc"], **SMALL)
    many.with_logits(images())
    Counts.runs = 0
    many.with_logits(images())
    assert Counts.runs == 1


def test_nothing_after_the_layer_runs():
    class Explodes(Plain):
        armed = False

        def forward(self, x):
            x = self.norm(self.conv(x))
            assert not (Explodes.armed and float(x.detach().mean()) > -1e9), "went on after the layer"
            return self.fc(self.pool(self.conv2(x)).flatten(1))

    hooked = Representation(Explodes(), "norm", **SMALL)
    hooked(images())
    Explodes.armed = True
    assert hooked(images()).shape == (2, 4, 32, 32)


# --------------------------------------------------------------------------------------------- frozen, private


def test_frozen_whatever_a_parent_does():
    parent = nn.Module()
    parent.phi = Representation(Plain(), "conv2", **SMALL)
    x = images(8)
    before = parent.phi(x)
    parent.train()
    parent.requires_grad_(True)
    after = parent.phi(x)
    assert torch.equal(before, after)
    assert not any(module.training for module in parent.phi.network.modules())
    assert not after.requires_grad
    assert not any(parameter.requires_grad for parameter in parent.phi.parameters())
    parent.phi.network.train()
    assert torch.equal(parent.phi(x), before)


def test_the_users_module_stays_as_it_is():
    network = Plain().train()
    network.norm.eval()
    state = copy.deepcopy(network.state_dict())
    representation = Representation(network, "conv2", **SMALL)
    representation.with_logits(images())
    assert network.training
    assert not network.norm.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.relu.inplace
    assert not network.conv._forward_hooks
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])
    before = representation(images())
    network.conv.weight.data.zero_()
    assert torch.equal(representation(images()), before)


@pytest.mark.parametrize("kind", [Plain, Branching])
def test_gradients_reach_the_images(kind):
    representation = Representation(kind(), "conv2", size=16, mean=0.5, std=0.5, interpolation="bicubic")
    x = images().requires_grad_(True)
    z, logits = representation.with_logits(x)
    (z.square().sum() + logits.sum()).backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_random_numbers_of_the_caller_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    representation = Representation("squeezenet1_1", "features.0", "random", size=32)
    representation(images())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("kind", [Plain, Branching])
def test_copies_pickles_and_dtypes(kind):
    representation = Representation(kind(), "conv2", **SMALL)
    x = images()
    z = representation(x)
    representation.shape  # noqa: B018  (measured, and kept in what is copied)
    torch.testing.assert_close(copy.deepcopy(representation)(x), z)
    module = sys.modules[__name__]
    if getattr(module, kind.__name__, None) is kind:
        torch.testing.assert_close(pickle.loads(pickle.dumps(representation))(x), z)
    representation.double()
    assert representation(x).dtype == torch.float64
    torch.testing.assert_close(representation(x).float(), z)
    representation.to(torch.bfloat16)
    assert representation(x).dtype == torch.float32


# ----------------------------------------------------------------------------------------------- architectures


def tiny_vit() -> nn.Module:
    return VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=7)


def tiny_swin() -> nn.Module:
    return SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=7)


ARCHITECTURES = {
    "resnet": (
        lambda: torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7),
        32,
        ["bn1", "layer1.0.relu", "layer2", "avgpool", "fc"],
    ),
    "densenet": (
        lambda: torchvision.models.DenseNet(8, (2, 2), 12, num_classes=7),
        32,
        ["features.norm0", "features.denseblock1.denselayer1.norm1", "features"],
    ),
    "mobilenet": (
        lambda: torchvision.models.mobilenet_v3_small(),
        32,
        ["features.1.block.1.fc1", "features.4"],
    ),
    "vit": (
        tiny_vit,
        32,
        ["conv_proj", "encoder.layers.encoder_layer_0.ln_1", "encoder.layers.encoder_layer_0.ln_2"],
    ),
    "swin": (tiny_swin, 64, ["features.0.0", "features.1.0.norm1", "features.1", "permute"]),
    "convnext": (
        lambda: torchvision.models.ConvNeXt(
            [CNBlockConfig(12, 16, 1), CNBlockConfig(16, None, 1)], num_classes=7
        ),
        32,
        ["features.0", "features.1.0.block.3", "features.3"],
    ),
    "timm resnet": (lambda: timm.create_model("resnet10t"), 32, ["bn1", "layer1.0.act1", "global_pool"]),
    "timm lite": (lambda: timm.create_model("tf_efficientnet_lite0"), 32, ["bn1", "blocks.1", "conv_head"]),
    "timm swin": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(1, 1)),
        56,
        ["patch_embed", "layers.0", "layers.1.downsample"],
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name):
    torch.manual_seed(0)
    build, size, layers = ARCHITECTURES[name]
    network = build().eval()
    x = images(2, size)
    many = Representation.many(network, layers, size=size, mean=0.5, std=0.5)
    shapes = Representation.layers(network, size=size, mean=0.5, std=0.5)
    found, logits = many.with_logits(x)
    with torch.no_grad():
        torch.testing.assert_close(logits, network(x))
    for layer in layers:
        z, raw = found[layer], by_hook(network, layer, x)
        assert tuple(z.shape[1:]) == shapes[layer]
        if raw.dim() == 3:
            raw = raw[:, -16:].unflatten(1, (4, 4))
        if raw.dim() == 4:
            raw = raw.permute(0, 3, 1, 2) if raw.shape[1] == raw.shape[2] else raw
        torch.testing.assert_close(z, raw.reshape(z.shape))
    torch.testing.assert_close(many[layers[0]](x), found[layers[0]])
    assert shapes["input"] == (3, size, size)
    assert shapes["logits"] == shapes["softmax"] == tuple(logits.shape[1:])
    assert next(iter(shapes)) == "input"
    assert list(shapes)[-2:] == ["logits", "softmax"]


def test_a_cube_is_read_by_its_module():
    network = nn.Sequential(nn.Conv2d(3, 16, 1), _Turn(), nn.LayerNorm(16), nn.Linear(16, 16))
    x = images(2, 16)
    at = Representation(network, "0", **ASIS)
    torch.testing.assert_close(at(x), by_hook(network, "0", x))
    for layer in ("2", "3"):
        torch.testing.assert_close(at.at(layer)(x), by_hook(network, layer, x).permute(0, 3, 1, 2))


class _Turn(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


def test_images_that_are_not_square():
    representation = Representation(Plain(), "conv2", size=(16, 24), mean=0.5, std=0.5)
    assert representation.shape == (6, 16, 24)
    turned = Representation(
        nn.Sequential(nn.Conv2d(3, 5, 4, 4), _Turn()), "1", size=(16, 24), mean=0.5, std=0.5
    )
    assert turned.shape == (5, 4, 6)


def test_tokens_become_a_map_or_a_vector():
    network = tiny_vit().eval()
    x = images()
    layer = "encoder.layers.encoder_layer_1"
    tokens = by_hook(network, layer, x)
    patches = Representation(network, layer, **SMALL)
    torch.testing.assert_close(patches(x), tokens[:, 1:].reshape(2, 4, 4, 16).permute(0, 3, 1, 2))
    assert patches.shape == (16, 4, 4)
    torch.testing.assert_close(patches.at(layer, token="class")(x), tokens[:, 0])
    attention = by_hook(network, "encoder.layers.encoder_layer_0.self_attention", x)
    at = patches.at("encoder.layers.encoder_layer_0.self_attention", token="class")
    torch.testing.assert_close(at(x), attention[:, 0])
    with pytest.raises(UserError, match=r"token='class' asks for a class token"):
        Representation(timm.create_model("mixer_s32_224", img_size=64), "norm", token="class", size=64)(x)


@pytest.mark.parametrize(
    ("name", "options", "extra"),
    [
        ("vit_tiny_patch16_224", {}, 1),
        ("deit_tiny_distilled_patch16_224", {}, 2),
        ("vit_small_patch14_reg4_dinov2", {"embed_dim": 24, "num_heads": 2}, 5),
        ("vit_medium_patch16_gap_240", {"embed_dim": 24, "num_heads": 2}, 0),
    ],
)
def test_timm_transformers_have_extra_tokens(name, options, extra):
    side = 56 if "patch14" in name else 64
    network = timm.create_model(name, img_size=side, depth=1, **options).eval()
    x = images(2, side)
    at = Representation(network, "blocks.0", size=side, mean=0.5, std=0.5)
    tokens = by_hook(network, "blocks.0", x)
    width = tokens.shape[2]
    assert tokens.shape[1] == 16 + extra
    torch.testing.assert_close(at(x), tokens[:, extra:].reshape(2, 4, 4, width).permute(0, 3, 1, 2))
    assert at.at("patch_embed").shape == (width, 4, 4)  # before the extra tokens are put in front


def test_structured_outputs():
    x = images()
    at = Representation(Structured(), "pair", **SMALL)
    torch.testing.assert_close(at(x), x * 2)
    torch.testing.assert_close(at.at("mapping")(x), x * 2 + 1)
    torch.testing.assert_close(at.logits(x), (x * 2 + 1).mean((2, 3)))
    torch.testing.assert_close(at.with_logits(x)[0], x * 2)
    assert list(Representation.layers(Structured(), **SMALL)) == [
        "input",
        "pair",
        "mapping",
        "logits",
        "softmax",
    ]
    for layer, words in [
        ("nothing", "no tensor"),
        ("five", "no vector, map or tokens"),
        ("sequence", "not the tokens of an image"),
        ("windows", "does not keep the batch"),
        ("idle", "never called on its own; choose a layer that is"),
    ]:
        with pytest.raises(UserError, match=words):
            at.at(layer)(x)


# --------------------------------------------------------------------------------- names, weights, preprocessing


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", Preprocessing(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")),
        ("torchvision/inception_v3", Preprocessing(299, interpolation="bilinear")),
        ("tf_efficientnet_lite0", Preprocessing(224, (0.5,) * 3, (0.5,) * 3, "bicubic")),
        ("timm/resnet18", Preprocessing(224, interpolation="bicubic")),
    ],
)
def test_preprocessing_is_the_networks_own(name, expected):
    representation = Representation(name, "input", "random")
    assert representation.preprocessing == expected
    assert representation.shape == (3, expected.size, expected.size)
    changed = Representation(representation, "input", size=48, std=0.25, interpolation="nearest")
    assert changed.preprocessing == Preprocessing(48, expected.mean, (0.25,), "nearest")
    assert changed.network is representation.network


def test_a_module_says_how_it_wants_its_images():
    network = Plain()
    network.preprocessing = {"size": 24, "mean": 0.5, "std": 0.5, "antialias": False, "crop": "ignored"}
    network.layer_aliases = {"conv5": "conv2", "fc8": "logits", "first": "relu#1", "softmax": "softmax"}
    network.class_names = list("abcdef")
    assert Representation(network, "conv5").class_names is None  # there are five logits
    network.class_names = list("abcde")
    representation = Representation(network, "conv5")
    assert representation.preprocessing == Preprocessing(24, (0.5,), (0.5,), antialias=False)
    assert representation.class_names == list("abcde")
    x = images()
    torch.testing.assert_close(representation(x), representation.at("conv2")(x))
    assert representation.fingerprint() == representation.at("conv2").fingerprint()
    assert representation.at("first").shape == (4, 24, 24)
    shapes = Representation.layers(network)
    assert shapes["conv5"] == shapes["conv2"] == (6, 24, 24)
    assert shapes["fc8"] == (5,)
    assert {line.name: line.aliases for line in survey(network) if line.aliases} == {
        "conv2": ("conv5",),
        "logits": ("fc8",),
    }
    assert Representation(torchvision.models.resnet18(), "fc").preprocessing == Preprocessing()


def test_weights_from_files(tmp_path):
    network = torchvision.models.squeezenet1_1()
    state = network.state_dict()
    true = Representation(network, "features", size=64)
    files = {
        "plain.pth": state,
        "wrapped.ckpt": {
            "state_dict": {f"module.{name}": value for name, value in state.items()},
            "epoch": 3,
        },
        "model.pt": {"model": {f"model.{n}": v for n, v in state.items()} | {"loss.weight": torch.zeros(1)}},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    save_file(state, tmp_path / "safe.safetensors", {"classes": json.dumps([str(k) for k in range(1000)])})
    for name in [*files, "safe.safetensors"]:
        representation = Representation("squeezenet1_1", "features", tmp_path / name, size=64)
        assert representation.fingerprint() == true.fingerprint()
        assert len(representation.class_names) == 1000
        assert representation.class_names[1] == ("1" if name.startswith("safe") else "goldfish")
    again = Representation.from_spec(json.loads(json.dumps(representation.spec())))
    assert again.fingerprint() == representation.fingerprint()
    torch.testing.assert_close(again(images(1, 64)), true(images(1, 64)))
    own = Representation(torchvision.models.squeezenet1_1(), "features", tmp_path / "plain.pth", size=64)
    assert own.fingerprint() == true.fingerprint()


def test_weights_with_another_number_of_classes(tmp_path):
    network = torchvision.models.squeezenet1_1(num_classes=10)
    torch.save(network.state_dict(), tmp_path / "ten.pth")
    representation = Representation("squeezenet1_1", "features", tmp_path / "ten.pth", size=64)
    assert representation.class_names is None
    assert representation.fingerprint() == Representation(network, "features", size=64).fingerprint()
    shapes = Representation.layers("squeezenet1_1", tmp_path / "ten.pth", size=64)
    assert shapes["softmax"] == (10,)


class Evil:
    def __reduce__(self):
        return (print, ("this ran",))


def test_files_that_do_not_fit_get_a_sentence(tmp_path, capsys):
    state = torchvision.models.squeezenet1_1().state_dict()
    torch.save(state, tmp_path / "whole.pth")
    save_file(state, tmp_path / "whole.safetensors")
    for name in ("whole.pth", "whole.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
            cut = tmp_path / f"cut{length}.{name.rsplit('.', 1)[1]}"
            cut.write_bytes(whole[:length])
            with pytest.raises(UserError, match=r"cut.*truncated or no checkpoint"):
                Representation("squeezenet1_1", "features", cut)
    torch.save({"state_dict": state, "extra": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "old.pkl"):
        with pytest.raises(UserError, match=r"would run code when loaded, so it was not loaded"):
            Representation("squeezenet1_1", "features", tmp_path / name)
    assert "this ran" not in capsys.readouterr().out
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        UserError, match=r"another architecture: \d+ missing \(features.0.weight.*unexpected \(conv1"
    ):
        Representation("squeezenet1_1", "features", tmp_path / "other.pth")
    wide = {**state, "features.0.weight": torch.zeros(64, 3, 5, 5)}
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(
        UserError, match=r"1 misshaped \(features.0.weight \(64, 3, 5, 5\) instead of \(64, 3, 3, 3\)\)"
    ):
        Representation("squeezenet1_1", "features", tmp_path / "wide.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"holds no state dict"):
        Representation("squeezenet1_1", "features", tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"'nowhere.pth' are not there"):
        Representation("squeezenet1_1", "features", "nowhere.pth")


def test_published_weights_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(
        UserError, match=r"put https://download.*squeezenet1_1-b8a52dc0.pth into .*checkpoints"
    ):
        Representation("squeezenet1_1", "features")
    with pytest.raises(UserError, match=r"fetch https://.*resnet10t.*pass weights=PATH"):
        Representation("resnet10t", "layer1")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"could not be fetched"):
        Representation("squeezenet1_1", "features")
    torch.save(torchvision.models.squeezenet1_1().state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    assert Representation("squeezenet1_1", "features", size=64).class_names[0] == "tench"


def test_a_published_weights_name(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    assert Representation("resnet18", "layer1", "IMAGENET1K_V1", size=32).shape == (64, 8, 8)


def test_untrained_networks_are_the_same_every_time():
    one, two = (Representation("squeezenet1_1", "features", "random", size=64) for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    assert one.class_names is None


def test_fingerprint_changes_with_all_that_matters():
    network = Plain()
    base = Representation(network, "conv2", **SMALL)
    changed = copy.deepcopy(network)
    changed.conv.bias.data[0] += 1e-3
    slope = copy.deepcopy(network)
    slope.relu = nn.LeakyReLU(0.1, inplace=True)
    others = [
        base.at("conv"),
        base.at("conv2", token="class"),
        base.at("relu#1"),
        base.at("relu#2"),
        Representation(base, "conv2", size=16),
        Representation(base, "conv2", std=0.3),
        Representation(base, "conv2", interpolation="bicubic"),
        Representation(changed, "conv2", **SMALL),
        Representation(slope, "conv2", **SMALL),
    ]
    prints = {each.fingerprint() for each in [base, *others]}
    assert len(prints) == len(others) + 1
    assert Representation(network, "conv2", **SMALL).fingerprint() == base.fingerprint()


def test_spec_of_your_own_module_needs_it_again():
    network = Plain()
    representation = Representation(network, "conv2", token="class", **SMALL)
    spec = json.loads(json.dumps(representation.spec()))
    again = Representation.from_spec(spec, network)
    assert again.fingerprint() == representation.fingerprint()
    with pytest.raises(UserError, match=r"your own module Plain, which is not saved with it"):
        Representation.from_spec(spec)


# -------------------------------------------------------------------------------------------------------- errors


def test_errors_are_sentences():
    with pytest.raises(UserError, match=r"layer 'layer5' is not in resnet18; it has 'layer4', "):
        Representation("resnet18", "layer5", "random")
    with pytest.raises(UserError, match=r"network 'resnet5O' is unknown; the nearest names are 'resnet50'"):
        Representation("resnet5O", "layer4")
    with pytest.raises(UserError, match=r"a network is a name or an nn.Module, not int"):
        Representation(3, "layer4")
    with pytest.raises(UserError, match=r"token 'mean' is unknown; use 'patch', 'class'"):
        Representation(Plain(), "conv", token="mean")
    with pytest.raises(UserError, match=r"interpolation 'cubic' is unknown; use 'bicubic'"):
        Representation(Plain(), "conv", interpolation="cubic")
    with pytest.raises(UserError, match=r"give a size of at least 1"):
        Representation(Plain(), "conv", size=0)
    with pytest.raises(UserError, match=r"needs a network by name"):
        Representation(Plain(), "conv", "random")
    with pytest.raises(
        UserError, match=r"VisionTransformer cannot be run on images of 48×48 pixels \(.*\); give the size"
    ):
        Representation(tiny_vit(), "encoder", size=48)(images())
    with pytest.raises(UserError, match=r"VisionTransformer cannot be run on images of 48×48"):
        Representation(tiny_vit(), "logits", size=48)(images())
    at = Representation(Plain(), "conv", **SMALL)
    for wrong in (images()[0], images()[:, :1], (images() * 127).byte()):
        with pytest.raises(
            UserError, match=r"images are float tensors \(N, 3, H, W\) with values in \[-1, 1\]"
        ):
            at(wrong)
    with pytest.raises(UserError, match=r"give a list of at least one layer"):
        Representation.many(Plain(), [])
    with pytest.raises(UserError, match=r"already has its weights"):
        Representation(at, "conv", "random")
    with pytest.raises(UserError, match=r"a layer is named twice"):
        Representation.many(Plain(), ["conv", "conv"])


def test_repr_is_short():
    representation = Representation(Plain(), "conv2", **SMALL)
    assert repr(representation) == "Representation('Plain', 'conv2', 32×32 px)"
    assert representation.shape == (6, 32, 32)
    assert repr(representation) == "Representation('Plain', 'conv2', 32×32 px, z (6, 32, 32))"


# ------------------------------------------------------------------------------- published and shipped classifiers

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
WEIGHTS = Path(__file__).parents[3] / "shared" / "weights" / "tf_efficientnet_lite0.safetensors"


def test_published_names_bring_their_preprocessing_and_short_names():
    layers = ["input", "maxpool", "layer1", "avgpool", "fc", "softmax"]
    many = Representation.many("resnet101_animalfaces_10", layers, "random", size=32)
    first = many["input"]
    assert replace(first.preprocessing, size=224) == Preprocessing(antialias=False)
    assert first.network_name == first.spec()["network"] == "resnet101_animalfaces_10"
    found, logits = many.with_logits(images())
    shapes = {name: tuple(z.shape[1:]) for name, z in found.items()}
    sides = {"input": (3, 32, 32), "maxpool": (64, 8, 8), "layer1": (256, 8, 8)}
    assert shapes == {**sides, "avgpool": (2048,), "fc": (10,), "softmax": (10,)}
    torch.testing.assert_close(found["fc"], logits)


def test_published_alexnet_has_short_names():
    found = find("alexnet", "random")
    assert found.preprocessing == Preprocessing(227, antialias=False)
    assert found.aliases["conv5"] == "features.11"
    assert Representation("torchvision/alexnet", "features.11", "random").preprocessing == Preprocessing()


def test_a_small_classifier_wants_its_own_size():
    network = SmallResNet(["cat", "dog", "fox"], width=4)
    representation = Representation(network, "stage2")
    assert representation.preprocessing == Preprocessing(64, (0.5,), (0.5,))
    assert representation.class_names == ["cat", "dog", "fox"]
    assert representation.shape == (8, 16, 16)
    x = images(2, 64)
    with torch.no_grad():
        torch.testing.assert_close(representation.logits(x), network.eval()(x))


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs ../shared/reference")
@pytest.mark.parametrize("name", ["alexnet", "resnet101_animalfaces_shared"])
def test_parity_with_the_published_classifiers(name):
    import gzip
    import importlib.util

    from invariances import zoo

    spec = importlib.util.spec_from_file_location("fill", REFERENCE / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    case = json.loads(gzip.decompress((REFERENCE / f"{name}.json.gz").read_bytes()))
    state = {key: torch.from_numpy(value) for key, value in fill.fill(case["state_dict"]).items()}
    network = zoo.load_published(zoo.build(name), state)
    x = torch.from_numpy(fill.tensor(f"{name}/image", (1, 3, 128, 128))).tanh()
    expected = numpy.load(REFERENCE / f"{name}.npz")
    layers = list(case["config"]["layers"])
    with torch.no_grad():
        found, logits = Representation.many(network, layers).with_logits(x)
    for layer in layers:
        shape = [int(side) for side in expected[f"{layer}.shape"]]
        values = found[layer].reshape(shape).flatten()
        values = values if len(values) <= 5000 else values[::101]
        true = torch.from_numpy(expected[f"{layer}.every_101st"])
        assert (values - true).abs().max() <= 1e-4 * true.abs().max(), layer
    true = torch.from_numpy(expected["logits"])
    assert (logits - true).abs().max() <= 1e-4 * true.abs().max()


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs ../shared/weights")
def test_the_real_network():
    folders = {"n02099601": "golden retriever", "n02129165": "lion", "n02132136": "brown bear"}
    representation = Representation("tf_efficientnet_lite0", "blocks.2", WEIGHTS)
    faces = WEIGHTS.parents[1] / "data" / "animalfaces10"
    photos = [load_images(sorted((faces / folder).iterdir())[:4], 224) for folder in folders]
    with torch.no_grad():
        z, logits = representation.with_logits(torch.cat(photos))
    assert z.shape[1:] == representation.shape == (40, 28, 28)
    top = [representation.class_names[each] for each in logits.argmax(1)]
    true = [name for name in folders.values() for _ in range(4)]
    assert sum(map(str.__eq__, top, true)) >= 10
