"""Laws that any conditional flow obeys, over many random configurations."""

import json
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from invariances import UserError
from invariances.flow.embedders.embedder import halvings
from invariances.flow.flow import ConditionalFlow
from invariances.flow.layers import ActNorm, DoubleCoupling, Permutation
from invariances.flow.residual_block import ResidualBlock

torch.set_num_threads(1)

SHAPES = st.one_of(
    st.just(()),
    st.tuples(st.integers(1, 12)),
    st.tuples(st.integers(1, 4), st.integers(1, 14), st.integers(1, 14)),
)
CONFIGS = st.fixed_dictionaries(
    {
        "latent_dim": st.integers(2, 9),
        "representation_shape": SHAPES,
        "blocks": st.integers(1, 4),
        "width": st.integers(1, 24),
        "depth": st.integers(0, 2),
        "embedder_depth": st.integers(2, 6),
        "embedder": st.sampled_from(["published", "residual"]),
        "embedder_width": st.integers(1, 20),
    }
)
SEEDS = st.integers(0, 2**20)
law = settings(max_examples=40, deadline=None, derandomize=True)


def make(config, seed, batch=6, dtype=torch.float32, stretch=1.5):
    """A flow with weights larger than a fresh one's, initialised on a batch, in eval mode; and that batch."""
    torch.manual_seed(seed)
    flow = ConditionalFlow(**config).to(dtype)
    with torch.no_grad():
        for name, weight in flow.named_parameters():
            if name.endswith("weight"):
                weight.mul_(stretch)
    shape = config["representation_shape"]
    latent = torch.randn(batch, config["latent_dim"], dtype=dtype)
    representation = torch.randn(batch, *shape, dtype=dtype) if shape else None
    flow.train()
    with torch.no_grad():
        flow(latent, representation)
        for module in flow.modules():
            if isinstance(module, ActNorm):  # as after some training: not the batch's own moments
                module.scale.mul_(1 + 0.1 * torch.randn_like(module.scale))
                module.loc.add_(0.1 * torch.randn_like(module.loc))
    return flow.eval(), latent, representation


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


@law
@given(CONFIGS, SEEDS)
@torch.no_grad()
def test_inverse_undoes_forward(config, seed):
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        flow, latent, representation = make(config, seed, dtype=dtype)
        invariance, _ = flow(latent, representation)
        assert relative(flow.inverse(invariance, representation), latent) < tolerance
        noise = torch.randn_like(latent)
        back, _ = flow(flow.inverse(noise, representation), representation)
        assert relative(back, noise) < tolerance


@torch.no_grad()
def test_inverse_at_paper_depth():
    config = {"latent_dim": 32, "representation_shape": (16,), "blocks": 20, "width": 64}
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        flow, latent, representation = make(config, 0, batch=32, dtype=dtype, stretch=1.0)
        invariance, _ = flow(latent, representation)
        assert relative(flow.inverse(invariance, representation), latent) < tolerance


@law
@given(CONFIGS, SEEDS)
def test_log_determinant_is_that_of_the_jacobian(config, seed):
    flow, latent, representation = make(config, seed, batch=4, dtype=torch.float64)
    _, log_det = flow(latent, representation)
    for i in range(len(latent)):
        z = None if representation is None else representation[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda x, z=z: flow(x[None], z)[0][0], latent[i])
        expected = torch.linalg.slogdet(jacobian).logabsdet
        assert torch.isclose(log_det[i], expected, rtol=1e-8, atol=1e-8)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(SEEDS)
@torch.no_grad()
def test_density_integrates_to_one(seed):
    config = {"latent_dim": 2, "representation_shape": (3,), "blocks": 3, "width": 8, "embedder_depth": 3}
    flow, _, representation = make(config, seed, batch=64, dtype=torch.float64, stretch=1.0)
    z = representation[:1]
    samples = flow.sample(z, 4000)[0]
    low, high = samples.min(0).values, samples.max(0).values
    middle, half = (low + high) / 2, (high - low)  # twice the samples' own extent
    steps = 600
    axes = [torch.linspace(m - h, m + h, steps, dtype=torch.float64) for m, h in zip(middle, half)]
    grid = torch.cartesian_prod(*axes)
    area = (2 * half / (steps - 1)).prod()
    total = (flow.log_prob(grid, z).exp() * area).sum().item()
    assert abs(total - 1) < 5e-3


@law
@given(CONFIGS, SEEDS)
@torch.no_grad()
def test_an_item_does_not_depend_on_its_batch(config, seed):
    flow, latent, representation = make(config, seed, dtype=torch.float64)
    invariance, log_det = flow(latent, representation)
    for i in range(len(latent)):
        z = None if representation is None else representation[i : i + 1]
        one, one_log_det = flow(latent[i : i + 1], z)
        assert torch.allclose(one[0], invariance[i], rtol=1e-10, atol=1e-10)
        assert torch.allclose(one_log_det[0], log_det[i], rtol=1e-10, atol=1e-10)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(CONFIGS, SEEDS)
@torch.no_grad()
def test_save_and_load_to_the_bit(tmp_path_factory, config, seed):
    flow, latent, representation = make(config, seed)
    path = tmp_path_factory.mktemp("flow") / "flow.safetensors"
    save_file(flow.state_dict(), path)
    torch.manual_seed(seed + 1)
    other = ConditionalFlow(**flow.config)
    other.load_state_dict(load_file(path))
    for mode in (True, False):  # in training mode too: a loaded ActNorm never initialises again
        invariance, log_det = flow.train(mode)(latent, representation)
        again, log_det_again = other.train(mode)(latent, representation)
        assert torch.equal(invariance, again)
        assert torch.equal(log_det, log_det_again)
    one, two = (
        f.sample(representation, 3, generator=torch.Generator().manual_seed(3)) for f in (flow, other)
    )
    assert torch.equal(one, two)


@law
@given(CONFIGS, SEEDS, st.sampled_from([1.5, 30.0]))
@torch.no_grad()
def test_samples_are_finite_far_out_of_distribution(config, seed, stretch):
    config = {**config, "blocks": 20}
    flow, latent, representation = make(config, seed, stretch=stretch)
    strange = [None]
    if representation is not None:
        strange = [
            torch.zeros_like(representation),
            100 * representation,
            1e6 * torch.randn_like(representation),
            torch.full_like(representation, 6e4),
        ]
    for z in strange:
        assert flow.sample(z, 3).isfinite().all()
        assert flow.sample(z, 3, temperature=10.0).isfinite().all()
        assert flow.log_prob(latent, z).isfinite().all()


def test_sample_shape_seed_and_temperature():
    flow, _, representation = make(
        {"latent_dim": 5, "representation_shape": (3,), "blocks": 2, "width": 8}, 0
    )
    draw = flow.sample(representation, 4, generator=torch.Generator().manual_seed(1))
    assert draw.shape == (6, 4, 5)
    assert torch.equal(draw, flow.sample(representation, 4, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(draw, flow.sample(representation, 4, generator=torch.Generator().manual_seed(2)))
    cold = flow.sample(representation, 4, temperature=0.0)
    assert torch.allclose(cold[:, 0], cold[:, 1])
    assert torch.allclose(cold[:, 0], flow.inverse(torch.zeros(6, 5), representation), atol=1e-6)


@torch.no_grad()
def test_samples_follow_the_density():
    """Samples inverted again are standard normal, and belong to their own representation."""
    flow, _, representation = make(
        {"latent_dim": 3, "representation_shape": (4,), "blocks": 3, "width": 16}, 5, dtype=torch.float64
    )
    samples = flow.sample(representation[:2], 4000, generator=torch.Generator().manual_seed(0))
    for i in range(2):
        invariance, _ = flow(samples[i], representation[i : i + 1])
        assert invariance.mean(0).abs().max() < 0.1
        assert (invariance.std(0) - 1).abs().max() < 0.1


def test_published_shapes_are_accepted():
    flow, latent, representation = make({"latent_dim": 4, "representation_shape": (3,), "blocks": 2}, 0)
    invariance, _ = flow(latent, representation)
    assert torch.equal(invariance, flow(latent[..., None, None], representation[..., None, None])[0])
    assert ConditionalFlow(4, (3, 1, 1), blocks=1, width=8).representation_shape == (3,)


def test_embedder_follows_the_representation():
    published = {13: 2, 224: 5, 56: 4, 28: 3, 14: 2, 7: 1}
    assert {size: halvings(size, size) for size in published} == published
    assert [halvings(size, size) for size in range(1, 7)] == [0, 0, 0, 0, 0, 1]
    assert all(halvings(s, s) == max(0, min(5, math.floor(math.log2(s / 3)))) for s in range(1, 400))
    assert embedder_widths(128, (4096,)) == [2773, 1450, 128]
    assert embedder_widths(64, (8,)) == [26, 45, 64]
    assert embedder_widths(64, (32, 16, 16)) == [64, 128, 64]


def residual_flow(shape, seed=0):
    config = {"latent_dim": 4, "representation_shape": shape, "blocks": 2, "width": 8}
    return make({**config, "embedder": "residual", "embedder_width": 3}, seed)


@pytest.mark.parametrize("shape", [(5,), (3, 9, 9), (4, 40, 17)])
def test_a_residual_embedder_passes_on_a_gaussian_and_nothing_else(shape):
    flow, latent, z = residual_flow(shape)
    told = flow.gaussian(z)
    assert told.shape == (6, 8)
    assert torch.equal(flow(latent, z)[0], flow(latent, gaussian=told)[0])
    norm = flow.residual_embedder.latent_norm
    mean, deviation = told[:, :4], (0.5 * told[:, 4:]).exp()
    normal = torch.distributions.Normal(mean / norm.scale - norm.loc, (deviation / norm.scale).abs())
    expected = normal.log_prob(latent).sum(1)
    assert torch.allclose(flow.gaussian_log_prob(latent, z), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "still"), [((3, 9, 9), True), ((5,), False)])
def test_the_flow_teaches_a_residual_embedder_of_vectors_and_not_one_of_maps(shape, still):
    flow, latent, z = residual_flow(shape)
    net = flow.residual_embedder
    flow.train()
    flow.log_prob(latent, z).sum().backward()
    assert {id(each) for each in flow.parameters() if each.grad is None} == {
        id(each) for each in net.done_parameters()
    }
    assert all(each.grad is None for each in net.regression.parameters()) == still
    assert net.last.weight.grad.abs().sum() > 0
    flow.gaussian_log_prob(latent, z).sum().backward()
    assert all(each.grad is not None for each in net.regression_parameters())
    z.requires_grad_()
    flow.eval().log_prob(latent, z).sum().backward()
    assert z.grad.abs().sum() > 0


def test_large_maps_are_halved_by_the_first_block_of_a_residual_embedder():
    flow = ConditionalFlow(4, (8, 56, 56), blocks=1, width=8, embedder="residual", embedder_width=4)
    seen = []
    blocks = [each for each in flow.residual_embedder.modules() if isinstance(each, ResidualBlock)]
    for each in blocks:
        each.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    flow.gaussian(torch.zeros(2, 8, 56, 56))
    assert seen == [(8, 28, 28), (4, 14, 14), (8, 7, 7), (16, 7, 7)]


def embedder_widths(latent_dim, shape, **options):
    flow = ConditionalFlow(latent_dim, shape, blocks=1, width=8, **options)
    return [len(w) for name, w in flow.embedder.named_parameters() if name.endswith("weight")]


def test_wrong_shapes_get_a_sentence():
    flow = ConditionalFlow(4, (3, 6, 6), blocks=1, width=8)
    with pytest.raises(UserError, match=r"representation has shape .*built for \('N', 3, 6, 6\)"):
        flow(torch.zeros(2, 4), torch.zeros(2, 3, 5, 5))
    with pytest.raises(UserError, match="works on"):
        flow(torch.zeros(2, 5), torch.zeros(2, 3, 6, 6))
    with pytest.raises(UserError, match="needs a representation"):
        flow.sample()
    with pytest.raises(UserError, match="3 representations were given for 2 latents"):
        flow(torch.zeros(2, 4), torch.zeros(3, 3, 6, 6))
    for wrong in ({"latent_dim": 1}, {"representation_shape": (3, 4)}, {"blocks": 0}, {"embedder_depth": 1}):
        with pytest.raises(UserError):
            ConditionalFlow(**{"latent_dim": 4, "representation_shape": (3,), **wrong})


class TestActNorm:
    def test_first_training_batch_leaves_standardised(self):
        norm = ActNorm(5)
        x = 7 * torch.randn(64, 5) + 3
        y = norm(x)
        assert torch.allclose(y.mean(0), torch.zeros(5), atol=1e-5)
        assert torch.allclose(y.std(0), torch.ones(5), atol=1e-4)
        assert not torch.allclose(norm(10 * x).std(0), torch.ones(5), atol=0.5)

    def test_maps_are_standardised_per_channel(self):
        y = ActNorm(3)(5 * torch.randn(4, 3, 6, 7) - 2)
        assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)

    def test_never_in_eval(self):
        norm = ActNorm(5).eval()
        x = 7 * torch.randn(64, 5) + 3
        assert torch.equal(norm(x), x)
        assert not norm.initialized

    @pytest.mark.parametrize("x", [torch.randn(1, 5), torch.full((8, 5), 0.1), torch.zeros(8, 5)])
    def test_no_spread_gives_scale_one(self, x):
        norm = ActNorm(5)
        assert torch.allclose(norm(x), torch.zeros(5), atol=1e-6)
        assert torch.equal(norm.scale, torch.ones(5))
        assert norm.log_det() == 0

    def test_batch_of_one_trains(self):
        flow = ConditionalFlow(4, (3,), blocks=4, width=8)
        flow.log_prob(torch.randn(1, 4), torch.randn(1, 3)).sum().backward()
        assert all(p.grad.isfinite().all() for p in flow.parameters())


RANK = """
import sys, json, torch
from invariances.flow.layers import ActNorm
rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
batch = torch.arange(20.0).view(10, 2).square()
norm = ActNorm(2)
norm(batch[:3] if rank == 0 else batch[3:])
print(json.dumps([norm.loc.tolist(), norm.scale.tolist()]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed part")
def test_actnorm_is_the_same_on_every_rank(tmp_path):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    (loc, scale), other = (json.loads(w.communicate(timeout=120)[0].splitlines()[-1]) for w in workers)
    assert [loc, scale] == other
    alone = ActNorm(2)
    alone(torch.arange(20.0).view(10, 2).square())
    assert torch.allclose(torch.tensor(loc), alone.loc)
    assert torch.allclose(torch.tensor(scale), alone.scale)


def test_coupling_and_permutation_by_hand():
    """Compared with the rules written out naively."""
    torch.manual_seed(0)
    coupling = DoubleCoupling(4, 3, 8, 1)
    x, e = torch.randn(5, 4), torch.randn(5, 3)
    y, log_det = coupling(x, e)
    a, b = x[:, :2], x[:, 2:]
    total = 0
    for half in (coupling.first, coupling.second):
        told = torch.cat([a, e], 1)
        s, t = torch.tanh(half.s(told)), half.t(told)
        b, total = b * s.exp() + t, total + s.sum(1)
        a, b = b, a
    assert torch.allclose(y, torch.cat([b, a], 1), atol=1e-6)
    assert torch.allclose(log_det, total, atol=1e-6)
    permutation = Permutation(4)
    assert torch.equal(permutation(x), torch.stack([x[:, i] for i in permutation.order], 1))
    assert torch.equal(permutation.inverse(permutation(x)), x)
