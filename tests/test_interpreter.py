import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from invariances import zoo
from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.data.given import load_images
from invariances.data.shapes import Shapes
from invariances.flow.config import FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter, autoencoder_of
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.zoo.loading import load_autoencoder


def network(seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        )
    net.preprocessing = {"size": 32}
    return net


def parts(layer="1"):
    torch.manual_seed(0)
    representation = Representation(network(), layer)
    vae = VAE(32, latent_dim=4, width=4, max_width=4, blocks=0)
    return (
        representation,
        vae,
        ConditionalFlow(FlowConfig(blocks=2, width=8, depth=1), (4,), representation.shape),
    )


@pytest.fixture
def interpreter():
    return Interpreter(*parts()).eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_samples_repeat_with_a_generator_and_stay_in_range(interpreter, images):
    one, same, other = (
        interpreter.sample(images, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert one.shape == (3, 5, 3, 32, 32)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.abs().max() <= 1
    assert not one.requires_grad


def test_temperature_zero_gives_one_picture(interpreter, images):
    samples = interpreter.sample(images, 3, temperature=0)
    assert torch.allclose(samples[:, 0], samples[:, 1], atol=1e-5)
    assert (samples[0] - samples[1]).abs().max() > 1e-3


def test_half_precision_decodes_to_the_same_picture_but_for_a_few_levels_of_255():
    world, classifier, vae = Shapes(8, seed=2), zoo.load("shapes_shape"), zoo.load("shapes_vae")
    representation = Representation(classifier, "logits")
    interpreter = Interpreter(
        representation, vae, ConditionalFlow(FlowConfig(blocks=1, width=8), (64,), (8,))
    ).eval()
    images = world.images(range(8))
    exact = interpreter.reconstruct(images)
    interpreter.precision = "bf16-mixed"
    apart = (interpreter.reconstruct(images) - exact).abs()
    assert apart.dtype == torch.float32
    assert 0 < apart.mean() < 0.5 * 2 / 255
    assert apart.max() < 8 * 2 / 255


def test_a_picture_mixed_with_itself_is_its_reconstruction(interpreter, images):
    assert torch.allclose(interpreter.mix(images, images), interpreter.reconstruct(images), atol=1e-3)


def test_mixing_pairs_one_with_many(interpreter, images):
    mixed = interpreter.mix(images[:1], images)
    each = torch.cat([interpreter.mix(images[:1], one[None]) for one in images])
    assert torch.allclose(mixed, each, atol=1e-4)
    with pytest.raises(UserError, match="do not pair"):
        interpreter.mix(images[:2], images)


def test_likelihood_and_invariance_agree(interpreter, images):
    latent, z = interpreter.latent(images), interpreter.represent(images)
    v, log_det = interpreter.flow(latent, z)
    assert torch.allclose(interpreter.encode(images), v)
    expected = log_det - 0.5 * v.square().sum(1) - 2 * torch.log(torch.tensor(2 * torch.pi))
    assert torch.allclose(interpreter.log_prob(images), expected, atol=1e-5)


def test_pictures_of_any_size_are_taken(interpreter):
    assert interpreter.reconstruct(torch.zeros(2, 3, 50, 40)).shape == (2, 3, 32, 32)
    assert interpreter.sample(torch.zeros(3, 64, 64), 2).shape == (1, 2, 3, 32, 32)


def test_pictures_of_other_sizes_are_smoothed_and_stay_in_range(interpreter):
    edge = torch.ones(1, 3, 64, 64)
    edge[..., :27] = -1
    found = interpreter.resized(edge)
    assert found.min() == -1, "bicubic interpolation oversteps at an edge"
    assert found.max() == 1
    stripes = torch.ones(1, 3, 256, 256)
    stripes[..., (torch.arange(256) + 2) % 8 < 4] = -1
    assert interpreter.resized(stripes)[..., 4:-4].abs().max() < 0.05, "fine stripes are grey from afar"


def test_a_posterior_sample_has_the_posteriors_deviation(interpreter, images):
    posterior = interpreter.autoencoder.encode(images)
    drawn = interpreter.latent(images, torch.Generator().manual_seed(0))
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(drawn, posterior.mean + posterior.logvar.exp().sqrt() * noise, atol=1e-5)


def test_a_posterior_sample_is_taken_where_a_generator_is_given(interpreter, images):
    mode = interpreter.latent(images)
    drawn = interpreter.latent(images, torch.Generator().manual_seed(0))
    assert not torch.equal(mode, drawn)
    assert torch.equal(drawn, interpreter.latent(images, torch.Generator().manual_seed(0)))


def test_a_saved_folder_loads_to_the_bit(interpreter, images, tmp_path):
    interpreter.save(tmp_path)
    loaded = Interpreter.load(tmp_path, network=network())
    assert torch.equal(loaded.encode(images), interpreter.encode(images))
    assert torch.equal(loaded.reconstruct(images), interpreter.reconstruct(images))
    assert not any(each.training for part in (loaded.flow, loaded.autoencoder) for each in part.modules())


def test_named_networks_are_found_again_without_being_given(images, tmp_path):
    representation = Representation("test_resnet", "layer2", "random")
    _, vae, _ = parts()
    flow = ConditionalFlow(FlowConfig(blocks=1, width=4, depth=0), (4,), representation.shape)
    made = Interpreter(representation, vae, flow).eval()
    made.save(tmp_path)
    assert torch.equal(Interpreter.load(tmp_path).encode(images), made.encode(images))


def test_the_network_itself_must_be_the_same(interpreter, tmp_path):
    interpreter.save(tmp_path)
    with pytest.raises(UserError, match="other weights"):
        Interpreter.load(tmp_path, network=network(seed=2))
    with pytest.raises(UserError, match="your own module"):
        Interpreter.load(tmp_path)


def test_another_autoencoder_is_refused(interpreter, tmp_path):
    interpreter.save(tmp_path)
    torch.manual_seed(9)
    with pytest.raises(UserError, match="not the one"):
        Interpreter.load(tmp_path, network=network(), autoencoder=VAE(32, latent_dim=4, width=8, max_width=8))


def test_parts_must_fit():
    representation, vae, _ = parts()
    with pytest.raises(UserError, match="latents of 6"):
        Interpreter(
            representation,
            vae,
            ConditionalFlow(FlowConfig(blocks=1, width=4, depth=0), (6,), representation.shape),
        )
    with pytest.raises(UserError, match="representations of shape"):
        Interpreter(representation, vae, ConditionalFlow(FlowConfig(blocks=1, width=4, depth=0), (4,), (7,)))


def test_bad_folders_get_a_sentence(interpreter, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Interpreter.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no finished run"):
        Interpreter.load(tmp_path)
    interpreter.save(tmp_path)
    weights = tmp_path / "interpreter.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated"):
        Interpreter.load(tmp_path, network=network())

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trap"), "w"))

    weights.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError):
        Interpreter.load(tmp_path, network=network())
    assert not (tmp_path / "trap").exists()
    weights.write_bytes(whole)
    tensors = load_file(weights)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, weights, metadata=_metadata(whole))
    with pytest.raises(UserError, match="another architecture"):
        Interpreter.load(tmp_path, network=network())
    save_file({"a": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match="not written by"):
        Interpreter.load(tmp_path, network=network())


def _metadata(whole):
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length])["__metadata__"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"latent_dim": 4, "blocks": 2}, "older version; train again"),
        ({"config": {"an_option_of_another_version": 1}}, "another version"),
        ({"config": {"blocks": 10**7}}, "flow.blocks is 10000000"),
        ({"config": {"blocks": 1000, "width": 65536}}, "another architecture"),
        ({"config": {"width": "wide"}}, "flow.width is 'wide'"),
        ({"config": {"transform": "spline"}}, "use 'couplings'"),
        ({"latent_shape": [10**12]}, "another architecture|impossible"),
        ({"latent_shape": 4}, "latent_shape is 4"),
        ({"representation_shape": [10**9, 3, 3]}, "another architecture|impossible"),
        ({"representation_shape": "ab"}, "representation_shape is 'ab'"),
        ({"config": None}, "damaged"),
        ({"config": {"embedder": 3}}, "damaged"),
        ([1], "damaged"),
        (None, "does not say"),
        ("{", "does not say"),
    ],
)
def test_what_a_file_says_of_its_flow_is_checked_before_it_is_built(interpreter, tmp_path, change, expected):
    interpreter.save(tmp_path)
    weights = tmp_path / "interpreter.safetensors"
    metadata, spec = _metadata(weights.read_bytes()), interpreter.flow.spec()
    if isinstance(change, dict):
        inner = change.get("config", {})
        changed = {**spec, **change, "config": {**spec["config"], **inner} if inner is not None else None}
        metadata["flow"] = json.dumps(changed)
    elif change is None:
        del metadata["flow"]
    else:
        metadata["flow"] = change if isinstance(change, str) else json.dumps(change)
    save_file(load_file(weights), weights, metadata=metadata)
    with pytest.raises(UserError, match=expected):
        Interpreter.load(tmp_path, network=network())


def test_weights_that_no_training_leaves_are_refused(interpreter, tmp_path):
    interpreter.save(tmp_path)
    weights = tmp_path / "interpreter.safetensors"
    whole = weights.read_bytes()
    block = "flow.transform.blocks.0."
    for name, value in {
        "norm.scale": torch.zeros(4),
        "norm.loc": torch.full((4,), torch.nan),
        "permutation.order": torch.tensor([0, 1, 2, 9]),
        "permutation.back": torch.tensor([0, 0, 1, 1]),
        "coupling.first.s.0.bias": torch.full((8,), torch.inf),
    }.items():
        weights.write_bytes(whole)
        tensors = load_file(weights)
        assert tensors[block + name].shape == value.shape
        save_file({**tensors, block + name: value}, weights, metadata=_metadata(whole))
        with pytest.raises(UserError, match="no training leaves"):
            Interpreter.load(tmp_path, network=network())


@pytest.mark.parametrize("door", [Interpreter.load, load_autoencoder, lambda path: load_images(path, 32)])
def test_an_empty_word_is_not_the_current_folder(door):
    with pytest.raises(UserError, match=r"give a (name|picture)"):
        door("")


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "not finite"), (0.0, "codes pictures alike")])
def test_an_autoencoder_that_no_training_leaves_is_refused(tmp_path, value, said):
    torch.manual_seed(0)
    code = VAE(32, 8, width=8, max_width=16)
    with torch.no_grad():
        for each in code.parameters():
            each.fill_(value)
    save_autoencoder(code, tmp_path / "autoencoder.safetensors")
    for given in (code, tmp_path / "autoencoder.safetensors"):
        with pytest.raises(UserError, match=said):
            autoencoder_of(given)
