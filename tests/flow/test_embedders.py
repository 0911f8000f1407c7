import math

import pytest
import torch

from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.embedders.embedder import NoEmbedder
from invariances.flow.embedders.published import PublishedEmbedder, halvings
from invariances.flow.embedders.regression import RegressionEmbedder
from invariances.flow.flow import ConditionalFlow
from invariances.flow.residual_block import ResidualBlock
from invariances.system.errors import UserError

REGRESSION = EmbedderConfig("regression", width=3)
HIDDEN = 16 * 3


def flow_of(shape, kind=REGRESSION, transform="couplings", latent_shape=(4,), probabilities=False):
    """A flow that has seen a batch, and that batch."""
    torch.manual_seed(0)
    flow = ConditionalFlow(FlowConfig(transform, 2, 8, 1, kind), latent_shape, shape, probabilities)
    latent, z = 2 + 3 * torch.randn(6, *latent_shape), torch.randn(6, *shape)
    flow.loss(latent, torch.Generator(), z)
    with torch.no_grad():
        for each in flow.transform.parameters():
            if not each.any():
                each.add_(0.1 * torch.randn_like(each))
    if flow.embedder.taught_first:
        flow.embedder.log_prob(latent, flow.embed(z))
    return flow.eval(), latent, z


def widths(latent_dim, shape, depth=4):
    embedder = PublishedEmbedder(EmbedderConfig(depth=depth), shape, latent_dim)
    return [len(w) for name, w in embedder.named_parameters() if name.endswith("weight")]


def test_the_published_embedder_follows_the_representation():
    published = {13: 2, 224: 5, 56: 4, 28: 3, 14: 2, 7: 1}
    assert {size: halvings(size, size) for size in published} == published
    assert [halvings(size, size) for size in range(1, 7)] == [0, 0, 0, 0, 0, 1]
    assert all(halvings(s, s) == max(0, min(5, math.floor(math.log2(s / 3)))) for s in range(1, 400))
    assert widths(128, (4096,)) == [2773, 1450, 128]
    assert widths(128, (2048,), depth=6) == [1664, 1280, 896, 512, 128]
    assert widths(64, (8,)) == [26, 45, 64]
    assert widths(64, (32, 16, 16)) == [64, 128, 64]


def test_a_flow_without_representation_has_an_empty_embedding():
    flow = ConditionalFlow(FlowConfig(blocks=1, width=8), (4,))
    assert isinstance(flow.embedder, NoEmbedder)
    assert flow.embed().shape == (1, 0)
    assert flow.embed(torch.zeros(3, 5)).shape == (3, 0)


@pytest.mark.parametrize("kind", [EmbedderConfig(), REGRESSION])
def test_of_probabilities_the_logarithm_is_embedded(kind):
    flow, _, _ = flow_of((8,), kind)
    logarithmic, _, _ = flow_of((8,), kind, probabilities=True)
    logarithmic.load_state_dict(flow.state_dict())
    p = torch.randn(5, 8).softmax(1)
    p[0, 0] = 0.0
    logarithmic.eval()
    assert torch.equal(logarithmic.embed(p), flow.embed(p.clamp(min=1e-12).log()))
    assert torch.equal(logarithmic.embedder(p), logarithmic.embed(p))


@pytest.mark.parametrize("shape", [(5,), (3, 9, 9), (4, 40, 17)])
@pytest.mark.parametrize("latent_shape", [(4,), (1, 2, 2)])
def test_a_regression_embedder_gives_a_gaussian_of_the_latent_first(shape, latent_shape):
    flow, latent, z = flow_of(shape, latent_shape=latent_shape)
    e = flow.embed(z)
    norm = flow.embedder.latent_norm
    mean, deviation = e[:, :4], (0.5 * e[:, 4:8]).exp()
    normal = torch.distributions.Normal(mean / norm.scale - norm.loc, (deviation / norm.scale).abs())
    expected = normal.log_prob(latent.flatten(1)).sum(1)
    assert torch.allclose(flow.embedder.log_prob(latent, e), expected, rtol=1e-4, atol=1e-4)


def test_a_guess_is_never_surer_than_a_log_variance_of_ten_says():
    embedder = RegressionEmbedder(REGRESSION, (5,), 2).eval()
    latent = torch.tensor([[1.0, 2.0]])
    sure, unsure = (torch.tensor([[0.0, 0.0, sign * 50.0, sign * 50.0]]) for sign in (-1, 1))
    for e, log_variance in ((sure, -10.0), (unsure, 10.0)):
        normal = torch.distributions.Normal(0.0, math.exp(log_variance / 2))
        expected = normal.log_prob(latent).sum(1)
        assert torch.allclose(embedder.log_prob(latent, e), expected, rtol=1e-5)


def test_of_vectors_the_hidden_layer_and_the_whitened_vector_follow():
    flow, _, z = flow_of((5,))
    whitening = flow.embedder.whitening
    whitening.weight.mul_(3)
    e = flow.embed(z)
    assert e.shape == (6, flow.embedder.outputs) == (6, 8 + HIDDEN + 5)
    hidden = e[:, 8 : 8 + HIDDEN]
    torch.testing.assert_close(flow.embedder.regression[-1](hidden), e[:, :8])
    assert torch.equal(e[:, 8 + HIDDEN :], whitening(z))


def test_of_long_vectors_the_hidden_layer_alone_follows_and_of_maps_nothing():
    long, _, z = flow_of((2049,))
    assert long.embedder.whitening is None
    assert long.embed(z).shape == (6, long.embedder.outputs) == (6, 8 + HIDDEN)
    assert RegressionEmbedder(REGRESSION, (2048,), 4).whitening is not None
    maps, _, z = flow_of((3, 9, 9))
    assert maps.embedder.whitening is None
    assert maps.embed(z).shape == (6, maps.embedder.outputs) == (6, 8)


def test_couplings_mix_what_is_longer_than_the_latent():
    for shape in ((5,), (3, 9, 9)):
        flow, _, _ = flow_of(shape)
        assert flow.transform.mixing.weight.shape == (4, flow.embedder.outputs)
        assert flow_of(shape, EmbedderConfig())[0].transform.mixing is None
    flow, latent, z = flow_of((5,))
    mixed = flow.transform.mixing(flow.embed(z))
    y, total = latent, 0
    for block in flow.transform.blocks:
        y, log_det = block(y, mixed)
        total = total + log_det
    assert torch.equal(flow(latent, z)[0], y)
    assert torch.equal(flow(latent, z)[1], total)


@pytest.mark.parametrize("transform", ["couplings", "continuous"])
@pytest.mark.parametrize("shape", [(5,), (3, 9, 9)])
def test_the_flows_loss_leaves_a_regression_embedder_alone_and_its_own_teaches_all_of_it(shape, transform):
    flow, latent, z = flow_of(shape, transform=transform)
    flow.train().loss(latent, torch.Generator(), z).sum().backward()
    assert all(each.grad is None for each in flow.embedder.parameters())
    flow.embedder.log_prob(latent, flow.embedder(z)).sum().backward()
    assert all(each.grad is not None for each in flow.embedder.parameters())
    z.requires_grad_()
    flow.eval().log_prob(latent, z).sum().backward()
    assert z.grad.abs().sum() > 0


def test_only_what_is_taught_first_has_no_gradient_of_the_flows_loss():
    flow, latent, z = flow_of((5,), EmbedderConfig())
    assert not PublishedEmbedder.taught_first
    assert RegressionEmbedder.taught_first
    flow.train().loss(latent, torch.Generator(), z).sum().backward()
    assert all(each.grad is not None for each in flow.embedder.parameters())


def test_large_maps_are_halved_by_the_first_block_of_a_regression_embedder():
    embedder = RegressionEmbedder(EmbedderConfig("regression", width=4), (8, 56, 56), 4)
    seen = []
    for each in embedder.modules():
        if isinstance(each, ResidualBlock):
            each.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    embedder(torch.zeros(2, 8, 56, 56))
    assert seen == [(8, 28, 28), (4, 14, 14), (8, 7, 7), (16, 7, 7)]


def test_maps_are_read_in_bfloat16_in_training_alone(monkeypatch):
    monkeypatch.setattr("invariances.flow.embedders.regression.bfloat16", lambda: True)
    embedder = RegressionEmbedder(REGRESSION, (3, 9, 9), 4)
    seen = []
    embedder.regression[-1].register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    z = torch.randn(4, 3, 9, 9)
    assert embedder.train()(z).dtype == torch.float32
    assert embedder.eval()(z).dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]


def test_an_embedder_checks_the_shape_itself():
    embedder = PublishedEmbedder(EmbedderConfig(), (3,), 4)
    with pytest.raises(UserError, match="built for"):
        embedder(torch.zeros(2, 4))
    assert embedder(torch.zeros(2, 3, 1, 1)).shape == (2, 4)
