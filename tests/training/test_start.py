import pytest
import torch

from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.training.start import read_out, start_embedder, whiten_embedder

REGRESSION = EmbedderConfig("regression", width=2)


def faint_world(count=4000, seed=0):
    """Vectors whose 16 directions have variances from 1 down to 1e-4, and a latent that is the faintest four."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 16, generator=generator)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(9)))[0]
    return (hidden * torch.logspace(0, -2, 16)) @ turn, hidden[:, -4:]


def test_whitening_makes_faint_directions_as_strong_as_the_others():
    z, _ = faint_world()
    flow = ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), (16,))
    first = flow.embedder.net[0]
    torch.nn.init.eye_(first.weight)
    whiten_embedder(flow, z)
    seen = first(z)
    assert torch.allclose(torch.cov(seen.T)[: seen.shape[1]], torch.eye(seen.shape[1]), atol=0.02)
    assert seen.mean(0).abs().max() < 1e-3


@pytest.mark.parametrize(("shape", "bound"), [((16,), 0.85), ((16, 1, 1), 0.85), ((4, 2, 2), 0.1)])
def test_embedding_starts_as_a_guess_of_the_latent(shape, bound):
    torch.manual_seed(0)
    z, latent = faint_world()
    flow = ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), shape)
    z = z.unflatten(1, shape) if len(shape) > 1 else z
    whiten_embedder(flow, z[:1000])
    read_out(flow, [(z, latent)])
    new_z, new_latent = faint_world(seed=1)
    new_z = new_z.unflatten(1, shape) if len(shape) > 1 else new_z
    guess = flow.eval().embed(new_z)
    unexplained = (guess - new_latent).square().mean() / new_latent.var()
    assert unexplained < bound


def test_few_pictures_do_not_make_a_wild_guess():
    generator = torch.Generator().manual_seed(0)
    z, latent = torch.randn(80, 20, 2, 2, generator=generator), torch.randn(80, 4, generator=generator)
    new_z, new_latent = (
        torch.randn(500, 20, 2, 2, generator=generator),
        torch.randn(500, 4, generator=generator),
    )

    def error(**options):
        torch.manual_seed(0)
        flow = ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), (20, 2, 2))
        read_out(flow, [(z, latent)], **options)
        return (flow.eval().embed(new_z).detach() - new_latent).square().mean()

    assert error(ridges=(1e-5,)) > 1.7
    assert error() < 1.2


def test_embedding_of_probabilities_finds_what_the_faint_ones_tell():
    torch.manual_seed(0)

    def world(seed):
        hidden = torch.randn(3000, 4, generator=torch.Generator().manual_seed(seed))
        logits = torch.cat([torch.full((3000, 1), 14.0), 1.5 * hidden, torch.zeros(3000, 3)], dim=1)
        return logits.softmax(1), hidden

    unexplained = {}
    for probabilities in (False, True):
        flow = ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), (8,), probabilities=probabilities)
        z, hidden = world(0)
        whiten_embedder(flow, z[:1000])
        read_out(flow, [(z, hidden)])
        z, hidden = world(1)
        error = (flow.eval().embed(z) - hidden).detach().square().mean()
        unexplained[probabilities] = float(error / hidden.var())
    assert unexplained[True] < 0.5, unexplained
    assert unexplained[False] > 1.5 * unexplained[True], unexplained


def test_a_flow_that_is_told_nothing_is_left_alone():
    flow = ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), ())
    before = {name: each.clone() for name, each in flow.state_dict().items()}
    read_out(flow, [(torch.zeros(8, 0), torch.zeros(8, 4))])
    assert all(torch.equal(each, before[name]) for name, each in flow.state_dict().items())


def test_a_regression_embedder_of_maps_starts_as_it_is():
    flow = ConditionalFlow(FlowConfig(blocks=1, width=8, embedder=REGRESSION), (4,), (3, 8, 8))
    before = {name: each.clone() for name, each in flow.state_dict().items()}
    start_embedder(flow, None)  # nothing is read
    assert all(torch.equal(each, before[name]) for name, each in flow.state_dict().items())


def test_a_regression_embedder_of_vectors_is_given_whitened_ones_and_keeps_its_weights():
    flow = ConditionalFlow(FlowConfig(blocks=1, width=8, embedder=REGRESSION), (4,), (6,))
    before = {name: each.clone() for name, each in flow.state_dict().items()}
    start_embedder(flow, Told())
    changed = {name for name, each in flow.state_dict().items() if not torch.equal(each, before[name])}
    whitening = flow.embedder.whitening
    assert {name.split(".")[-1] for name in changed} == {"mean", "weight"}
    assert len(changed) == len(list(whitening.buffers())) == 2
    assert not list(whitening.parameters())
    z = faint_world()[0][:, :6] @ torch.randn(6, 6, generator=torch.Generator().manual_seed(2))
    whiten_embedder(flow, z)
    assert torch.allclose(torch.cov(whitening(z).T), torch.eye(6), atol=1e-2)
    assert whitening(z).mean(0).abs().max() < 1e-3


def test_vectors_whose_whitening_would_outweigh_the_network_are_normalised_alone():
    flow = ConditionalFlow(FlowConfig(blocks=1, width=8, embedder=REGRESSION), (4,), (2049,))
    assert flow.embedder.whitening is None
    start_embedder(flow, Told())


def test_a_layer_that_never_varies_is_left_alone():
    flow = ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), (6,))
    before = {name: each.clone() for name, each in flow.state_dict().items()}
    whiten_embedder(flow, torch.ones(20, 6))
    assert all(torch.equal(each, before[name]) for name, each in flow.state_dict().items())


class Told:
    """Vectors and latents that are their first four elements; keeps what was asked for."""

    n = 5000

    def __init__(self):
        self.read = []

    def batch(self, indices):
        self.read.append(indices)
        z = torch.randn(len(indices), 6, generator=torch.Generator().manual_seed(int(indices[0])))
        return z[:, :4], torch.zeros(len(indices), 4), z


@pytest.mark.parametrize(("fit", "reads", "bound"), [(5000, 5000, 0.5), (500, 5500, 0.6)])
def test_the_start_reads_pictures_from_all_over_in_small_parts(monkeypatch, fit, reads, bound):
    monkeypatch.setattr("invariances.training.start._MOST_VALUES", 6 * fit)
    features, flow = Told(), ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), (6,))
    start_embedder(flow, features)
    read = torch.cat(features.read)
    assert max(len(each) for each in features.read) <= 64
    assert len(read) == reads
    assert len(read.unique()) == 5000
    assert 2000 < features.read[0].float().mean() < 3000
    z = torch.randn(500, 6, generator=torch.Generator().manual_seed(5))
    assert (flow.eval().embed(z) - z[:, :4]).square().mean() < bound


def test_reading_out_in_parts_is_reading_out_at_once():
    z, latent = faint_world(count=2000)
    flows = [ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), (4, 2, 2)) for _ in range(2)]
    flows[1].load_state_dict(flows[0].state_dict())
    z = z.unflatten(1, (4, 2, 2))
    read_out(flows[0], [(z[:1000], latent[:1000]), (z[1000:], latent[1000:])])
    read_out(flows[1], [(z, latent)])
    for a, b in zip(flows[0].state_dict().values(), flows[1].state_dict().values()):
        assert torch.equal(a, b)


def test_large_representations_are_read_from_fewer_pictures_and_stay_finite():
    torch.manual_seed(0)
    flow, count = ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), (3000, 2, 2)), 60
    before = flow.embedder.net[0].weight.clone()
    whiten_embedder(flow, torch.randn(count, 3000, 2, 2))
    read_out(flow, [(torch.randn(count, 3000, 2, 2), torch.randn(count, 4))])
    assert torch.isfinite(flow.embedder.net[0].weight).all()
    assert not torch.equal(flow.embedder.net[0].weight, before)
    wide = ConditionalFlow(FlowConfig(blocks=1, width=8), (4,), (3000,))
    z = torch.randn(count, 3000)
    whiten_embedder(wide, z)
    seen = wide.embedder.net[0](z)
    assert torch.isfinite(seen).all()
    assert float(seen.std()) < 3
