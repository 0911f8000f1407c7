"""Laws that flows of every transform and embedder obey, over many random configurations."""

import copy
import json
import math
import pickle

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from invariances import UserError
from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.flow import EMBEDDERS, TRANSFORMS, ConditionalFlow
from invariances.flow.layers import ActNorm

torch.set_num_threads(1)

SHAPES = st.one_of(
    st.just(()),
    st.tuples(st.integers(1, 12)),
    st.tuples(st.integers(1, 4), st.integers(1, 14), st.integers(1, 14)),
)
LATENTS = st.one_of(st.tuples(st.integers(2, 9)), st.sampled_from([(2, 1, 3), (1, 2, 2)]))
BUILT = st.fixed_dictionaries(
    {
        "latent_shape": LATENTS,
        "shape": SHAPES,
        "blocks": st.integers(1, 4),
        "width": st.integers(1, 24),
        "depth": st.integers(0, 2),
        "kind": st.sampled_from(sorted(EMBEDDERS)),
        "embedder_depth": st.integers(2, 6),
        "embedder_width": st.integers(1, 20),
        "probabilities": st.booleans(),
    }
)
SEEDS = st.integers(0, 2**20)
of_every_transform = pytest.mark.parametrize("transform", sorted(set(TRANSFORMS) - {"maps"}))
"""Flows over maps have laws of their own, in test_maps."""
EXAMPLES = {"couplings": 40, "continuous": 4}
"""Each of the second takes hundreds of passes of its network."""

STRETCH = {"couplings": 1.5, "continuous": 1.0}
STEPS = {"couplings": 0.0, "continuous": 1e-3}
"""Error of the solver's steps, relative to the largest value."""


def law(share=1.0, **drawn):
    """Holds a test to many configurations of each transform, drawn by these strategies."""

    def of(test):
        @of_every_transform
        def held(transform):
            options = {"deadline": None, "derandomize": True, "phases": [Phase.generate]}
            examples = max(2, round(share * EXAMPLES[transform]))
            settings(max_examples=examples, **options)(given(transform=st.just(transform), **drawn)(test))()

        return held

    return of


def build(
    transform,
    latent_shape=(4,),
    shape=(),
    blocks=2,
    width=8,
    depth=2,
    kind="published",
    embedder_depth=4,
    embedder_width=2,
    probabilities=False,
):
    embedder = EmbedderConfig(kind, embedder_depth, embedder_width)
    return ConditionalFlow(
        FlowConfig(transform, blocks, width, depth, embedder), latent_shape, shape, probabilities
    )


def make(transform, seed=0, batch=6, dtype=torch.float32, stretch=None, **built):
    """A flow with weights larger than a fresh one's, initialised on a batch, in eval mode; and that batch."""
    stretch = STRETCH[transform] if stretch is None else stretch
    torch.manual_seed(seed)
    flow = build(transform, **built).to(dtype)
    with torch.no_grad():
        for name, weight in flow.named_parameters():
            if name.endswith("weight"):
                weight.mul_(stretch)
            if not weight.any():
                weight.add_(0.1 * torch.randn_like(weight))
    latent = torch.randn(batch, *flow.latent_shape, dtype=dtype)
    representation = None
    if flow.representation_shape:
        representation = torch.randn(batch, *flow.representation_shape, dtype=dtype)
        if flow.probabilities:
            representation = representation.softmax(1)
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


def item(z, index):
    return None if z is None else z[index : index + 1]


@law(built=BUILT, seed=SEEDS)
@torch.no_grad()
def test_inverse_undoes_forward(transform, built, seed):
    for dtype, rounding in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        flow, latent, representation = make(transform, seed, dtype=dtype, **built)
        tolerance = rounding + STEPS[transform]
        invariance, log_det = flow(latent, representation)
        assert invariance.shape == latent.shape
        assert log_det.shape == (6,)
        assert invariance.dtype == log_det.dtype == dtype
        assert relative(flow.invariance(latent, representation), invariance) < rounding
        assert relative(flow.inverse(invariance, representation), latent) < tolerance
        noise = torch.randn_like(latent)
        back, _ = flow(flow.inverse(noise, representation), representation)
        assert relative(back, noise) < tolerance


@torch.no_grad()
def test_inverse_at_paper_depth():
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        size = {"latent_shape": (32,), "shape": (16,), "blocks": 20, "width": 64}
        flow, latent, representation = make("couplings", batch=32, dtype=dtype, stretch=1.0, **size)
        invariance, _ = flow(latent, representation)
        assert relative(flow.inverse(invariance, representation), latent) < tolerance


@law(built=BUILT, seed=SEEDS)
def test_log_determinant_is_that_of_the_jacobian(transform, built, seed):
    flow, latent, representation = make(transform, seed, batch=3, dtype=torch.float64, **built)
    with torch.no_grad():
        _, log_det = flow(latent, representation)
    for i in range(len(latent)):
        z = item(representation, i)
        jacobian = torch.autograd.functional.jacobian(
            lambda x, z=z: flow(x.view(1, *flow.latent_shape), z)[0].flatten(), latent[i].flatten()
        )
        expected = torch.linalg.slogdet(jacobian).logabsdet
        tolerance = 1e-8 + STEPS[transform]
        assert torch.isclose(log_det[i], expected, rtol=tolerance, atol=tolerance)


@law(0.1, seed=SEEDS)
@torch.no_grad()
def test_density_integrates_to_one(transform, seed):
    size = {"latent_shape": (2,), "shape": (3,), "blocks": 3, "width": 8, "embedder_depth": 3}
    flow, _, representation = make(transform, seed, batch=64, dtype=torch.float64, stretch=1.0, **size)
    z = representation[:1]
    samples = flow.sample(z, 4000)[0]
    low, high = samples.min(0).values, samples.max(0).values
    middle, half = (low + high) / 2, (high - low)  # twice the samples' own extent
    steps = 600 if transform == "couplings" else 150
    axes = [torch.linspace(m - h, m + h, steps, dtype=torch.float64) for m, h in zip(middle, half)]
    area = (2 * half / (steps - 1)).prod()
    total = (flow.log_prob(torch.cartesian_prod(*axes), z).exp() * area).sum().item()
    assert abs(total - 1) < 5e-3


@law(built=BUILT, seed=SEEDS, wide=st.booleans())
@torch.no_grad()
def test_an_item_does_not_depend_on_its_batch_or_row(transform, built, seed, wide):
    """Alone, and in any row of a batch, an item has the same invariance, likelihood, sample and embedding."""
    built = {**built, "latent_shape": (40,)} if wide else built  # above which traces are estimates
    flow, latent, representation = make(transform, seed, dtype=torch.float64, **built)

    def everything(rows):
        x, z = latent[rows], None if representation is None else representation[rows]
        invariance, log_det = flow(x, z)
        whole = [invariance, log_det, flow.log_prob(x, z), flow.inverse(x, z)]
        if z is not None:
            whole += [flow.embed(z), flow.sample(z, 2, temperature=0.0)]
        return whole

    together, order = everything(torch.arange(6)), torch.tensor([3, 0, 5, 1, 4, 2])
    for found, expected in zip(everything(order), together):
        assert torch.allclose(found, expected[order], rtol=1e-10, atol=1e-10)
    for i in range(2):
        for found, expected in zip(everything(torch.tensor([i])), together):
            assert torch.allclose(found[0], expected[i], rtol=1e-10, atol=1e-10)


@law(built=BUILT, seed=SEEDS)
@torch.no_grad()
def test_an_embedding_serves_in_place_of_its_representation(transform, built, seed):
    flow, latent, representation = make(transform, seed, **built)
    e = flow.embed(representation)
    assert e.shape == (1 if representation is None else 6, flow.embedder.outputs)
    noise = torch.Generator().manual_seed
    assert torch.equal(flow.log_prob(latent, representation), flow.log_prob(latent, embedding=e))
    assert torch.equal(flow.inverse(latent, representation), flow.inverse(latent, embedding=e))
    one, two = flow.loss(latent, noise(0), representation), flow.loss(latent, noise(0), embedding=e)
    assert one.shape == (6,)
    assert torch.equal(one, two)


@of_every_transform
def test_the_loss_of_what_learns_by_likelihood_is_its_negative_but_for_a_constant(transform):
    flow, latent, representation = make(transform, latent_shape=(5,), shape=(3,))
    loss = flow.loss(latent, torch.Generator(), representation)
    constant = 2.5 * math.log(2 * math.pi)
    likely = torch.allclose(loss + constant, -flow.log_prob(latent, representation), atol=1e-5)
    assert likely == flow.transform.likelihood


@of_every_transform
def test_the_loss_repeats_with_its_generator_and_reaches_all_that_learns(transform):
    flow, latent, representation = make(transform, latent_shape=(5,), shape=(3,))
    losses = [flow.loss(latent, torch.Generator().manual_seed(0), representation) for _ in range(2)]
    assert torch.equal(*losses)
    losses[0].sum().backward()
    learning = [name for name, each in flow.named_parameters() if each.requires_grad]
    assert all(dict(flow.named_parameters())[name].grad is not None for name in learning)


@of_every_transform
def test_gradients_pass_in_every_direction(transform):
    flow, latent, z = make(transform, latent_shape=(5,), shape=(3,))
    for direction in (lambda x: flow(x, z)[0], lambda x: flow.inverse(x, z), lambda x: flow.log_prob(x, z)):
        x = latent.clone().requires_grad_()
        direction(x).sum().backward()
        assert x.grad.abs().sum() > 0
    z = z.clone().requires_grad_()
    flow.log_prob(latent, z).sum().backward()
    assert z.grad.abs().sum() > 0


@law(0.25, built=BUILT, seed=SEEDS)
@torch.no_grad()
def test_save_and_load_to_the_bit(transform, built, seed):
    flow, latent, representation = make(transform, seed, **built)
    torch.manual_seed(seed + 1)
    restored = ConditionalFlow.restored(json.loads(json.dumps(flow.spec())), load(save(flow.state_dict())))
    assert restored.config == flow.config
    assert repr(restored) == repr(flow)
    for other in (restored, copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        for mode in (True, False):  # in training mode too: a loaded ActNorm never initialises again
            invariance, log_det = flow.train(mode)(latent, representation)
            again, log_det_again = other.train(mode)(latent, representation)
            assert torch.equal(invariance, again)
            assert torch.equal(log_det, log_det_again)
        one, two = (
            f.sample(representation, 3, generator=torch.Generator().manual_seed(3)) for f in (flow, other)
        )
        assert torch.equal(one, two)


@law(built=BUILT, seed=SEEDS, stretch=st.sampled_from([1.5, 30.0]))
@torch.no_grad()
def test_samples_are_finite_far_out_of_distribution(transform, built, seed, stretch):
    blocks = 20 if transform == "couplings" else 4
    flow, latent, z = make(transform, seed, stretch=stretch, **{**built, "blocks": blocks})
    strange = [None]
    if z is not None:
        strange = [torch.zeros_like(z), 100 * z, 1e6 * torch.randn_like(z), torch.full_like(z, 6e4), 1e18 * z]
    for z in strange:
        assert flow.sample(z, 3).isfinite().all()
        assert flow.sample(z, 3, temperature=10.0).isfinite().all()
        if transform == "couplings":
            assert flow.log_prob(latent, z).isfinite().all()


@of_every_transform
def test_sample_shape_seed_and_temperature(transform):
    flow, _, representation = make(transform, latent_shape=(5,), shape=(3,))
    draw = flow.sample(representation, 4, generator=torch.Generator().manual_seed(1))
    assert draw.shape == (6, 4, 5)
    assert torch.equal(draw, flow.sample(representation, 4, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(draw, flow.sample(representation, 4, generator=torch.Generator().manual_seed(2)))
    cold = flow.sample(representation, 4, temperature=0.0)
    assert torch.allclose(cold[:, 0], cold[:, 1])
    assert torch.allclose(cold[:, 0], flow.inverse(torch.zeros(6, 5), representation), atol=1e-6)
    noise = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
    expected = flow.inverse(noise, representation.repeat_interleave(4, 0)).view(6, 4, 5)
    assert torch.allclose(draw, expected, atol=1e-6)
    maps, _, _ = make(transform, latent_shape=(2, 3, 3))
    assert maps.sample(n=4).shape == (1, 4, 2, 3, 3)


@pytest.mark.parametrize(
    "impossible", [{"n": 0}, {"temperature": -1.0}, {"temperature": math.nan}, {"temperature": math.inf}]
)
def test_impossible_samples_get_a_sentence(impossible):
    with pytest.raises(UserError, match=r"^(n|temperature) is"):
        build("couplings").sample(**impossible)


@of_every_transform
@torch.no_grad()
def test_samples_follow_the_density(transform):
    """Samples inverted again are standard normal, and belong to their own representation."""
    flow, _, representation = make(
        transform, 5, latent_shape=(3,), shape=(4,), blocks=3, width=16, dtype=torch.float64
    )
    samples = flow.sample(representation[:2], 4000, generator=torch.Generator().manual_seed(0))
    for i in range(2):
        invariance, _ = flow(samples[i], representation[i : i + 1])
        assert invariance.mean(0).abs().max() < 0.1
        assert (invariance.std(0) - 1).abs().max() < 0.1


@of_every_transform
def test_published_shapes_are_accepted(transform):
    flow, latent, representation = make(transform, shape=(3,))
    invariance, _ = flow(latent, representation)
    assert torch.equal(invariance, flow(latent[..., None, None], representation[..., None, None])[0])
    assert build(transform, shape=(3, 1, 1)).representation_shape == (3,)


@of_every_transform
def test_batch_of_one_trains(transform):
    flow = build(transform, shape=(3,), blocks=4)
    flow.loss(torch.randn(1, 4), torch.Generator(), torch.randn(1, 3)).sum().backward()
    assert all(p.grad.isfinite().all() for p in flow.parameters() if p.requires_grad)


def test_wrong_shapes_get_a_sentence():
    flow = build("couplings", shape=(3, 6, 6))
    with pytest.raises(UserError, match=r"representation has shape .*built for \('N', 3, 6, 6\)"):
        flow(torch.zeros(2, 4), torch.zeros(2, 3, 5, 5))
    with pytest.raises(UserError, match=r"works on \(N, 4\)"):
        flow(torch.zeros(2, 5), torch.zeros(2, 3, 6, 6))
    with pytest.raises(UserError, match="needs a representation"):
        flow.sample()
    with pytest.raises(UserError, match="3 representations were given for 2 latents"):
        flow(torch.zeros(2, 4), torch.zeros(3, 3, 6, 6))
    with pytest.raises(UserError, match=r"embedding has shape \(2, 3\), but this flow's are \(N, 4\)"):
        flow(torch.zeros(2, 4), embedding=torch.zeros(2, 3))


@pytest.mark.parametrize("latent", [(1,), (), (4, 4), (0, 3, 3), 4, None, (2.5,), "ab"])
def test_impossible_latent_shapes_get_a_sentence(latent):
    with pytest.raises(UserError, match="latent_shape is"):
        build("couplings", latent_shape=latent)


@pytest.mark.parametrize("shape", [(0,), (3, 4), (1, 2, 3, 4), (3, -1, 4), "a", None, 3])
def test_impossible_representation_shapes_get_a_sentence(shape):
    with pytest.raises(UserError, match="representation_shape is"):
        build("couplings", shape=shape)
