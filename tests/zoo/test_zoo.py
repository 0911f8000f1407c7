"""Published checkpoints: names, shapes, numbers. Golden cases are computed here, by the published rules written out."""

import gzip
import importlib.util
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from invariances import Representation, UserError, zoo
from invariances.autoencoder.bigae import BigAE
from invariances.autoencoder.biggan import BigGAN, UpsamplingConv
from invariances.autoencoder.dequantiser import Dequantiser
from invariances.autoencoder.lpips import LPIPS
from invariances.flow.config import FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.zoo import registry
from invariances.zoo.published import IGNORED, PLAIN, UPSAMPLING, fold_spectral, load_published, rules

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
FLOWS = zoo.names("flow")


def fill(names, seed=0):
    """A value for each published name (name -> shape) that depends on the name alone."""
    state = {}
    for name, shape in names.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
        leaf = name.rsplit(".", 1)[-1]
        x = torch.randn(shape, generator=generator)
        if leaf == "num_batches_tracked":
            x = torch.zeros(shape, dtype=torch.long)
        elif leaf == "initialized":
            x = torch.ones(shape, dtype=torch.uint8)
        elif leaf == "forward_shuffle_idx":
            x = torch.randperm(shape[0], generator=generator)
        elif leaf == "backward_shuffle_idx":
            x = state[name.replace("backward", "forward")].argsort()
        elif leaf == "running_var":
            x = 0.5 + x.abs()
        elif leaf == "scale" or (leaf == "weight" and len(shape) == 1):
            x = 1 + 0.1 * x
        elif leaf in ("weight", "weight_bar"):
            x = x / math.sqrt(math.prod(shape[1:]))
        elif leaf not in ("weight_u", "weight_v"):
            x = 0.1 * x
        state[name] = x
    return state


def published_names(module, whole=False):
    """The published names and shapes of a module, by its rules."""
    names, own = {}, module.state_dict()
    plan = rules(module, ["net."] if whole else [])
    for mine, rule in plan.items():
        if rule.kind == IGNORED:
            names[rule.name] = ()
            continue
        shape = tuple(own[mine].shape)
        if rule.kind == PLAIN:
            names[rule.name] = shape
            continue
        shape = (shape[1], shape[0], 3, 3) if rule.kind == UPSAMPLING else shape
        names |= {f"{rule.name}_bar": shape, f"{rule.name}_u": shape[:1], f"{rule.name}_v": shape[:1]}
    return names


def close(a, b, tolerance=1e-4):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max()


# ---- the published rules, written out naively ----


def linear(state, name, x):
    return x @ state[f"{name}.weight"].flatten(1).T + state[f"{name}.bias"]


def act_norm(state, name, x):
    shape = (1, -1) + (1,) * (x.dim() - 2)
    return state[f"{name}.scale"].view(shape) * (x + state[f"{name}.loc"].view(shape))


def net(state, name, x, last):
    for i in range(0, last, 2):
        x = F.leaky_relu(linear(state, f"{name}.main.{i}", x), 0.01)
    return linear(state, f"{name}.main.{last}", x)


def naive_flow(state, x, embedding, blocks, last):
    log_det = torch.zeros(len(x), dtype=x.dtype)
    for i in range(blocks):
        block = f"flow.sub_layers.{i}"
        log_det = log_det + state[f"{block}.norm_layer.scale"].abs().log().sum()
        a, b = act_norm(state, f"{block}.norm_layer", x).chunk(2, dim=1)
        for j in (0, 1):
            told = torch.cat([a, embedding], dim=1)
            s = torch.tanh(net(state, f"{block}.coupling.s.{j}", told, last))
            b = b * s.exp() + net(state, f"{block}.coupling.t.{j}", told, last)
            log_det = log_det + s.sum(dim=1)
            a, b = b, a
        # after two swaps the first half is in a again, and the published halves leave swapped
        x = torch.cat([b, a], dim=1)[:, state[f"{block}.shuffle.forward_shuffle_idx"]]
    return x, log_det


def spectral(state, name):
    matrix, u = state[f"{name}.weight_bar"].flatten(1), state[f"{name}.weight_u"]
    v = matrix.T @ u
    v = v / (v.norm() + 1e-4)
    u = matrix @ v
    u = u / (u.norm() + 1e-4)
    return state[f"{name}.weight_bar"] / (u @ (matrix @ v))


def conv(state, name, x):
    weight = spectral(state, f"{name}.module")
    return F.conv2d(x, weight, state.get(f"{name}.module.bias"), padding=weight.shape[-1] // 2)


def hyper_norm(state, name, x, condition):
    mean, var = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
    x = (x - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + 1e-4).sqrt()
    scale = condition @ spectral(state, f"{name}.gamma_embed.module").T
    shift = condition @ spectral(state, f"{name}.beta_embed.module").T
    return F.relu((1 + scale)[..., None, None] * x + shift[..., None, None])


def naive_generator(state, codes, embedding):
    x = codes[0] @ spectral(state, "G_linear.module").T + state["G_linear.module.bias"]
    x = x.view(len(x), 4, 4, -1).permute(0, 3, 1, 2)
    for i, code in enumerate(codes[1:]):
        if i == len(codes) - 2:
            n, _, h, w = x.shape
            theta = conv(state, "attention.theta", x).view(n, -1, h * w)
            phi = F.max_pool2d(conv(state, "attention.phi", x), 2).view(n, -1, h * w // 4)
            g = F.max_pool2d(conv(state, "attention.g", x), 2).view(n, -1, h * w // 4)
            weights = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
            out = (g @ weights.transpose(1, 2)).view(n, -1, h, w)
            x = state["attention.gamma"] * conv(state, "attention.o_conv", out) + x
        condition, block = torch.cat([code, embedding], dim=1), f"GBlock.{i}"
        up = F.interpolate(hyper_norm(state, f"{block}.HyperBN", x, condition), scale_factor=2)
        h = hyper_norm(state, f"{block}.HyperBN_1", conv(state, f"{block}.conv0", up), condition)
        shortcut = conv(state, f"{block}.conv_sc", F.interpolate(x, scale_factor=2))
        x = conv(state, f"{block}.conv1", h) + shortcut
    name = "ScaledCrossReplicaBN"
    if f"{name}.loc" in state:
        x = act_norm(state, name, x)
    else:
        moments = (state[f"{name}.running_mean"], state[f"{name}.running_var"])
        x = F.batch_norm(x, *moments, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-4)
    return torch.tanh(conv(state, "colorize", F.relu(x)))


# ---- golden cases ----


@pytest.mark.parametrize("shape", [(5,), (2, 13, 13), (3, 7, 7)])
@torch.no_grad()
def test_flow_by_the_published_rules(shape):
    flow = ConditionalFlow(FlowConfig(blocks=3, width=16, depth=2), (6,), shape)
    state = fill(published_names(flow))
    load_published(flow, state)
    x, z = torch.randn(4, 6), torch.randn(4, *shape)
    if len(shape) == 1:
        embedding = z
        for i in (0, 3, 6):
            embedding = linear(state, f"embedder.net.{i}", embedding)
            if i < 6:
                embedding = F.leaky_relu(act_norm(state, f"embedder.net.{i + 1}", embedding), 0.2)
    else:
        embedding = z
        for i in range(2 if shape[1] == 13 else 1):
            layer = f"embedder.feature_layers.{i}.sub_layers"
            embedding = F.conv2d(embedding, state[f"{layer}.0.weight"], stride=2, padding=1)
            embedding = F.leaky_relu(act_norm(state, f"{layer}.1", embedding), 0.2)
        last = "embedder.dense_encode.sub_layers.0"
        embedding = F.conv2d(embedding, state[f"{last}.weight"], state[f"{last}.bias"]).flatten(1)
    close(flow.embed(z), embedding)
    expected, log_det = naive_flow(state, x, embedding, 3, 6)
    invariance, found = flow(x, z)
    close(invariance, expected)
    close(found, log_det)
    close(flow.inverse(expected, z), x)


@pytest.mark.parametrize(
    ("size", "code"), [(128, None), (128, 108), pytest.param(256, None, marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_generator_by_the_published_rules(size, code):
    generator = BigGAN(size, code, base=8)
    state = fill(published_names(generator))
    state["attention.gamma"] = torch.tensor([0.5])
    load_published(generator, state)
    blocks = 5 if size == 128 else 6
    assert generator.code_dim == (code or 20 * (blocks + 1))
    z, embedding = torch.randn(2, generator.code_dim), torch.randn(2, 128)
    codes = torch.split(z, [generator.code_dim - 20 * blocks, *[20] * blocks], dim=1)
    expected = naive_generator(state, codes, embedding)
    close(generator.decode_embedding(z, embedding), expected)
    close(generator.decode_embedding(z[..., None, None], embedding[..., None, None]), expected)
    close(generator.decode(torch.cat([z, embedding], dim=1)), expected)
    of_class = naive_generator(state, codes, state["linear.weight"].T[[207, 3]])
    close(generator.decode(z, torch.tensor([207, 3])), of_class)
    close(generator.decode(z, 207)[:1], of_class[:1])
    with pytest.raises(UserError, match="class 1000"):
        generator.decode(z, 1000)
    with pytest.raises(UserError, match="entries"):
        generator.decode(z)


@pytest.mark.parametrize("norm", ["act", "batch"])
@torch.no_grad()
def test_autoencoder_by_the_published_rules(norm):
    autoencoder = BigAE(108, norm, depth="tiny", base=8, class_width=16)
    state = fill(published_names(autoencoder))
    load_published(autoencoder, state)
    z = torch.randn(2, 108)
    images = autoencoder.decode(z)
    soft = net(state, "decoder.map_to_class_embedding", z, 6).softmax(dim=1)
    inner = {k.removeprefix("decoder.decoder."): v for k, v in state.items()}
    codes = torch.split(z, [8, *[20] * 5], dim=1)
    close(images, naive_generator(inner, codes, soft @ inner["linear.weight"].T))
    close(autoencoder.decode(z[..., None, None]), images)
    posterior = autoencoder.encode(images)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 108)
    x = images
    for _ in range(2):
        x = ((x + 1) / 2 - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(1, 3, 1, 1)
    close(posterior.mean, autoencoder.encoder.resnet(x)[:, :108])
    with pytest.raises(UserError, match="128"):
        autoencoder.encode(images[..., :64])


@torch.no_grad()
def test_dequantiser_by_the_published_rules():
    module = Dequantiser(8, 6, width=16)
    state = fill(published_names(module))
    load_published(module, state)
    e = torch.randn(3, 8)
    posterior, h = module.encode(e[..., None, None]), net(state, "encoder", e, 6)
    close(posterior.mean, net(state, "mu_layer", h, 6))
    close(posterior.logvar, net(state, "logvar_layer", h, 6))
    close(module.decode(posterior.mean), net(state, "decoder", posterior.mean, 8))
    assert module(e, torch.Generator().manual_seed(0)).shape == (3, 8)


@torch.no_grad()
def test_lpips_is_a_distance_and_takes_the_published_weights():
    module = LPIPS()
    weights = {
        f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))
    }
    load_published(module, weights)
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    distance = module(x, y)
    assert torch.equal(module(x, x), torch.zeros(2))
    assert (distance > 0).all()
    close(distance, module(y, x))
    load_published(module, {k: 2 * v for k, v in weights.items()})
    close(module(x, y), 2 * distance)


@torch.no_grad()
def test_upsampling_and_convolution_as_one():
    weight, x = torch.randn(5, 3, 3, 3), torch.randn(2, 3, 6, 7)
    layer = UpsamplingConv(3, 5)
    layer.weight.copy_(UpsamplingConv.folded(weight))
    close(layer(x), F.conv2d(F.interpolate(x, scale_factor=2), weight, layer.bias, padding=1))


def test_folded_spectral_normalisation():
    state = {"a.weight_bar": torch.randn(6, 4, 3, 3), "a.weight_u": F.normalize(torch.randn(6), dim=0)}
    close(fold_spectral(state["a.weight_bar"], state["a.weight_u"]), spectral(state, "a"), 1e-5)


# ---- names and forms ----


def test_every_entry_is_complete():
    for name in zoo.names():
        entry = zoo.entry(name)
        assert entry["kind"] in zoo.KINDS
        assert {"title", "licence", "source"} <= entry.keys()
        if "package" in entry:
            assert entry["package"] == f"weights/{name}.safetensors"
            continue
        assert entry["address"].startswith("https://")
        assert "md5" in entry or "sha256" in entry or name == "taef2"  # its author publishes none
        assert ".." not in Path(entry["file"]).parts
        assert not Path(entry["file"]).is_absolute()
        if entry["kind"] == "classifier":
            assert {"preprocessing", "aliases"} <= entry.keys()
    assert len(FLOWS) == 16


@pytest.mark.parametrize("name", [n for n in zoo.names() if "architecture" in zoo.entry(n)])
def test_every_architecture_builds(name):
    with torch.device("meta"):
        module = zoo.build(name)
        names = published_names(module)
    assert not module.training
    entry = zoo.entry(name)
    if entry["kind"] == "flow":
        blocks = [n for n in names if n.startswith("flow.")]
        assert len(blocks) == 20 * 37
        assert zoo.entry(entry["network"])["kind"] == "classifier"
        assert entry["layer"] in zoo.entry(entry["network"])["aliases"]
        autoencoder = {128: ("bigae_animals", "bigae_animalfaces"), 268: ("biggan_256",)}
        assert entry["autoencoder"] in autoencoder[module.latent_dim]


def test_classifiers_carry_preprocessing_and_short_names():
    module = zoo.build("alexnet")
    assert module.preprocessing["size"] == 227
    assert module.layer_aliases["conv5"] == "features.11"
    with torch.no_grad():
        images = torch.rand(1, 3, 64, 64)
        assert Representation(module, "conv5")(images).shape == (1, 256, 13, 13)


def test_forms_of_a_state_dict():
    module = zoo.build("resnet101_animalfaces_10")
    state = module.state_dict()
    for form in (
        {f"model.{k}": v for k, v in state.items()},
        {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    ):
        assert zoo.load_published(module, form) is module


def test_errors_list_every_entry_and_change_nothing():
    flow = ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), (3,))
    state = fill(published_names(flow))
    before = {k: v.clone() for k, v in flow.state_dict().items()}
    gone = state.pop("flow.sub_layers.0.coupling.s.0.main.0.bias")
    state["extra.weight"] = gone
    state["embedder.net.0.weight"] = torch.zeros(9, 9)
    with pytest.raises(UserError) as caught:
        load_published(flow, state)
    for word in (
        "1 missing: flow.sub_layers.0.coupling.s.0.main.0.bias",
        "1 unexpected: extra.weight",
        "1 misshaped: embedder.net.0.weight (9, 9) instead of (3, 3)",
    ):
        assert word in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in flow.state_dict().items())
    with pytest.raises(UserError, match="no tensors"):
        load_published(flow, {"a": 3})
    with pytest.raises(UserError, match="no published architecture"):
        load_published(torch.nn.Linear(2, 2), {})


def test_unknown_names_and_kinds():
    with pytest.raises(UserError, match="'bigae_animals'"):
        zoo.build("bigae_animal")
    with pytest.raises(UserError, match="'generator'"):
        zoo.names("generators")
    with pytest.raises(UserError, match="its own file"):
        zoo.build("shapes_vae")


def test_load_from_a_file_put_by_hand(tmp_path, monkeypatch):
    """Downloaded forms and all: fetch, verify, load, freeze; and a pickle that would run code is refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    entry = {
        "kind": "flow",
        "title": "tiny",
        "address": "http://127.0.0.1:9/tiny",
        "file": "invariances/tiny.ckpt",
        "architecture": {
            "name": "flow",
            "latent_dim": 4,
            "representation_shape": [3],
            "blocks": 1,
            "width": 8,
        },
    }
    monkeypatch.setattr(registry, "registry", lambda: {"tiny": entry})
    with pytest.raises(UserError, match="by hand"):
        zoo.load("tiny")
    path = tmp_path / "invariances" / "tiny.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    flow = zoo.build("tiny")
    state = fill(published_names(flow))
    torch.save({"state_dict": state}, path)
    loaded = zoo.load("tiny")
    x, z = torch.randn(2, 4), torch.randn(2, 3)
    assert torch.equal(loaded(x, z)[0], load_published(flow, state)(x, z)[0])
    assert not any(p.requires_grad for p in loaded.parameters())
    torch.save({"state_dict": state, "trap": Path("would be unpickled by code")}, path)
    with pytest.raises(UserError, match="run code"):
        zoo.load("tiny")
    torch.save({"state_dict": {**state, "more": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match=r"tiny\.ckpt does not fit tiny.*more"):
        zoo.load("tiny")


# ---- full cases of ../shared/reference ----


def case(name):
    if not (REFERENCE / f"{name}.npz").exists():
        pytest.skip("../shared/reference is not here")
    source = importlib.util.spec_from_file_location("fill", REFERENCE / "fill.py")
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    spec = json.loads(gzip.decompress((REFERENCE / f"{name}.json.gz").read_bytes()))
    state = {k: torch.from_numpy(np.asarray(v)) for k, v in module.fill(spec["state_dict"]).items()}
    network = zoo.load_published(zoo.build(name), state)
    return (
        network,
        spec["config"],
        dict(np.load(REFERENCE / f"{name}.npz")),
        lambda key, *shape: torch.from_numpy(module.tensor(f"{name}/{key}", shape)),
    )


@pytest.mark.parametrize(
    "name",
    [
        "cinn_resnet_animalfaces10_ae_fc",
        *[
            pytest.param(n, marks=pytest.mark.slow)
            for n in (
                "cinn_alexnet_aae_conv5",
                "cinn_alexnet_aae_fc6",
                "cinn_resnet_avgpool",
                "cinn_resnet_animalfaces10_ae_layer4",
                "cinn_resnet_animalfaces10_ae_avgpool",
            )
        ],
    ],
)
@torch.inference_mode()
def test_parity_of_flows(name):
    """In double precision, as shares of the output's largest magnitude; what is left is the reference's rounding.

    These random flows multiply a last digit a thousandfold and more, above all on the way back (the reference's own
    round trip is off by 5 times the largest latent): log-determinants and samples are held to the digits that its
    single precision left it. That our inverse is the right one follows from the exact round trip.
    """
    flow, config, expected, tensor = case(name)
    dim, channels, size = (
        config["in_channels"],
        config["conditioning_in_channels"],
        config["conditioning_spatial_size"],
    )
    x, noise, z = (
        tensor("latent", 2, dim, 1, 1),
        tensor("noise", 2, dim, 1, 1),
        tensor("representation", 2, channels, size, size),
    )

    def off(found, key):
        wanted = torch.from_numpy(expected[key]).reshape(found.shape)
        return float((found - wanted).abs().max() / wanted.abs().max())

    assert off(flow(x, z)[0], "residual") <= 1e-4, "in single precision"
    flow, x, noise, z = flow.double(), x.double(), noise.double(), z.double()
    residual, log_det = flow(x, z)
    assert off(flow.embed(z), "embedding") <= 1e-5
    assert off(residual, "residual") <= 1e-4
    assert off(log_det, "logdet") <= 5e-4
    assert off(flow.inverse(noise, z), "sample") <= 2e-2
    close(flow.inverse(residual, z), x.flatten(1), tolerance=1e-6)


@torch.inference_mode()
def test_parity_of_bigae():
    network, _, expected, tensor = case("bigae_animals")
    posterior = network.encode(tensor("image", 1, 3, 128, 128).tanh())
    decoded = network.decode(tensor("latent", 1, 128, 1, 1))
    found = {
        "mean": posterior.mean,
        "logvar": posterior.logvar,
        "decoded": decoded[:, :, ::4, ::4],
        "decoded_mean": decoded.mean((2, 3)),
    }
    for key, value in found.items():
        close(value, torch.from_numpy(expected[key]))


@pytest.mark.slow
@torch.inference_mode()
def test_parity_of_biggan():
    network, _, expected, tensor = case("biggan_256")
    z = tensor("z", 1, 140)
    embedded = network.decode_embedding(z, tensor("class_embedding", 1, 128))
    close(embedded[:, :, ::8, ::8], torch.from_numpy(expected["from_class_embedding"]))
    close(network.decode(z, 207)[:, :, ::8, ::8], torch.from_numpy(expected["from_class_207"]))


@pytest.mark.parametrize(
    "name", ["alexnet", pytest.param("resnet101_animalfaces_shared", marks=pytest.mark.slow)]
)
@torch.inference_mode()
def test_parity_of_classifiers(name):
    network, config, expected, tensor = case(name)
    images = tensor("image", 1, 3, 128, 128).tanh()
    for layer in config["layers"]:
        z, logits = Representation(network, layer).with_logits(images)
        flat = z.flatten() if z.numel() <= 5000 else z.flatten()[::101]
        close(flat, torch.from_numpy(expected[f"{layer}.every_101st"]))
        close(logits, torch.from_numpy(expected["logits"]))
