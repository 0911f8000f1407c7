"""What layers give: numbers that are no floats, tokens before the batch, and what a cut inherits from another."""

import json

import pytest
import torch
from torch import nn

from invariances import Representation, UserError
from invariances.representation.layout import Layout, layout

SMALL = {"size": 16, "mean": 0.5, "std": 0.5}


def images(n=3):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


class Give(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def at(make, **options):
    return Representation(nn.Sequential(Give(make)), "0", **{**SMALL, **options})


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda x: (x * 1e5).long(), lambda x: (x * 1e5).trunc()),
        (lambda x: (x * 100).to(torch.int8), lambda x: (x * 100).trunc()),
        (lambda x: x > 0, lambda x: (x > 0).float()),
        (lambda x: x.half(), lambda x: x.half().float()),
        (lambda x: x.to(torch.float8_e4m3fn), lambda x: x.to(torch.float8_e4m3fn).float()),
        (lambda x: torch.complex(x, 2 * x), lambda x: torch.cat([x, 2 * x], 1)),
        (lambda x: torch.complex(x, 2 * x).conj(), lambda x: torch.cat([x, -2 * x], 1)),
        (
            lambda x: torch.fft.fft2(x).mean((2, 3)),
            lambda x: torch.cat([x[:, :, 0, 0], 0 * x[:, :, 0, 0]], 1),
        ),
        (lambda x: torch.quantize_per_tensor(x, 0.01, 0, torch.qint8), lambda x: x.clamp(-1.28, 1.27)),
    ],
    ids=["int64", "int8", "bool", "float16", "float8", "complex", "conjugate", "complex vector", "quantised"],
)
@pytest.mark.filterwarnings("ignore:.*quantiz.*")
def test_every_number_becomes_float32(make, want):
    representation, x = at(make), images()
    z, true = representation(x), want(x)
    assert z.dtype == torch.float32
    torch.testing.assert_close(
        z, true, atol=0.006 if "quantize" in str(make.__code__.co_names) else 1e-5, rtol=1e-5
    )
    assert representation.shape == tuple(true.shape[1:])
    assert Representation.layers(representation.network, **SMALL)["0"] == representation.shape


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: x.to_sparse(), r"layer '0' of Sequential gives a sparse tensor of shape \(2, 3, 16, 16\)"),
        (lambda x: x.to("meta"), "gives a tensor on the meta device"),
        (lambda x: x[:, :0], r"gives nothing: its shape is \(2, 0, 16, 16\)"),
        (lambda x: torch.nested.nested_tensor(list(x)), "gives a nested tensor"),
        (lambda x: x.mean(), "does not keep the batch"),
    ],
    ids=["sparse", "meta", "no channels", "nested", "scalar"],
)
@pytest.mark.filterwarnings("ignore:.*nested.*")
def test_what_is_no_representation_gets_a_sentence(make, words):
    with pytest.raises(UserError, match=words):
        at(make)(images())
    assert "0" not in Representation.layers(nn.Sequential(Give(make)), **SMALL)


class TokensFirst(nn.Module):
    """As CLIP's blocks have it: (T, N, C)."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([tokens.mean(0, keepdim=True), tokens])
        return self.head(self.block(tokens)[0])


def test_tokens_before_the_batch():
    network, x = TokensFirst().eval(), images(5)
    kept = []
    network.block.register_forward_hook(lambda module, given, output: kept.append(output))
    with torch.no_grad():
        network(x)
    (tokens,) = kept
    assert tokens.shape == (17, 5, 8)
    network.block._forward_hooks.clear()
    patches = Representation(network, "block", **SMALL)
    torch.testing.assert_close(patches(x), tokens[1:].permute(1, 2, 0).reshape(5, 8, 4, 4))
    torch.testing.assert_close(patches.at("block", token="class")(x), tokens[0])
    assert Representation.layers(network, **SMALL)["block"] == (8, 4, 4)


def test_what_is_cut_anew_keeps_token_and_size():
    first = Representation(TokensFirst(), "block", token="class", check=False, **SMALL)
    for again in (
        Representation(first, "block"),
        first.at("block"),
        Representation.many(first, ["block"])["block"],
    ):
        assert (again.token, again.check) == ("class", False)
        assert again.shape == (8,)
        assert again.fingerprint() == first.fingerprint()
    assert first.at("block", token="patch").shape == (8, 4, 4)
    other = Representation(first, "block", size=(8, 16))
    assert (other.token, other.check, other.preprocessing.shape) == ("class", False, (8, 16))
    spec = json.loads(json.dumps(other.spec()))
    assert (spec["token"], spec["preprocessing"]["size"]) == ("class", [8, 16])
    back = Representation.from_spec(spec, first.network)
    assert (back.token, back.check, back.preprocessing) == ("class", False, other.preprocessing)
    del spec["check"]  # as older versions wrote it
    assert Representation.from_spec(spec, first.network).check


def test_layers_by_the_module_itself():
    network = TokensFirst()
    first = Representation(network, network.block, **SMALL)
    assert (first.layer, first.shape) == ("block", (8, 4, 4))
    assert first.at(first.network.head).layer == "head"
    assert Representation(nn.DataParallel(network), network.patches, **SMALL).layer == "patches"
    many = Representation.many(network, [network.patches, network.block], **SMALL)
    assert many.names == ["patches", "block"]


@pytest.mark.parametrize(
    ("network", "layer", "words"),
    [
        (TokensFirst(), nn.Linear(3, 3), "the given layer, a Linear, is no module of TokensFirst"),
        (
            TokensFirst(),
            -1,
            "layer is -1; give the name of one, .*such as 'head', or 'logits' for what comes last",
        ),
        ("resnet18", -1, "layer is -1; give the name of one"),
        (TokensFirst(), None, "layer is None; give the name"),
        (TokensFirst(), ["block"], "layer is .*; give the name"),
        (TokensFirst(), "", "layer '' is not in TokensFirst; it has"),
    ],
)
def test_layers_that_are_none(network, layer, words):
    with pytest.raises(UserError, match=words):
        Representation(network, layer)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_resizing_is_what_it_says(interpolation, antialias):
    """Rows of single pixels: they average out only where making smaller smoothes."""
    rows = (torch.arange(64)[:, None] % 4 == 0) * torch.ones(64)
    x = (rows * 2 - 1).expand(1, 3, 64, 64)
    options = {"interpolation": interpolation, "antialias": antialias, **SMALL}
    z = Representation(nn.Sequential(nn.Identity()), "input", **options)(x)
    smooth = {} if interpolation == "nearest" else {"antialias": antialias, "align_corners": False}
    torch.testing.assert_close(z, nn.functional.interpolate(x, (16, 16), mode=interpolation, **smooth))


@pytest.mark.parametrize(
    ("tokens", "said", "extra"),
    [(16, None, 0), (17, None, 1), (18, None, 2), (21, None, 5), (19, 3, 3), (16, 1, 0), (20, None, None)],
)
def test_extra_tokens(tokens, said, extra):
    found = layout((2, tokens, 8), 2, (32, 32), nn.Identity(), said)
    if extra is None:
        assert "not the tokens of an image" in found
    else:
        assert found == Layout("tokens", extra, (4, 4))
