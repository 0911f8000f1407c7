import pytest
import torch

from invariances.flow.config import EmbedderConfig, FlowConfig
from invariances.flow.couplings import AffineHalf, FlowBlock
from invariances.flow.embedders.published import PublishedEmbedder
from invariances.flow.flow import ConditionalFlow
from invariances.flow.layers import LIMIT


def test_values_are_held_within_the_limit_after_each_block_in_both_directions():
    block = FlowBlock(4, 2, 8, 1)
    with torch.no_grad():
        block.coupling.first.t[-1].bias.fill_(1e20)
    x, e = torch.randn(3, 4), torch.randn(3, 2)
    assert block(x, e)[0].abs().max() == LIMIT
    assert block.inverse(x, e).abs().max() == LIMIT


def test_embeddings_are_held_within_the_limit_mixed_ones_too():
    embedder = PublishedEmbedder(EmbedderConfig(), (3,), 4)
    with torch.no_grad():
        embedder.net[-1].bias.fill_(-1e20)
    assert embedder(torch.randn(2, 3)).eq(-LIMIT).all()
    flow = ConditionalFlow(
        FlowConfig(blocks=1, width=8, embedder=EmbedderConfig("regression", 4, 2)), (4,), (3,)
    )
    seen = []
    flow.transform.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    with torch.no_grad():
        flow.transform.mixing.bias.fill_(1e20)
    flow.eval()(torch.randn(2, 4), torch.randn(2, 3))
    assert seen[0].eq(LIMIT).all()


def test_log_determinants_stay_in_float32_under_autocast():
    flow = ConditionalFlow(FlowConfig(blocks=2, width=64), (4,), (3,))
    latent, z = torch.randn(16, 4), torch.randn(16, 3)
    with torch.autocast("cpu", torch.bfloat16):
        invariance, log_det = flow(latent, z)
        assert AffineHalf(2, 3, 8, 1)(latent[:, :2], z)[1].dtype == torch.float32
    exact, expected = flow(latent, z)
    assert log_det.dtype == invariance.dtype == torch.float32
    assert float((log_det - expected).abs().max().detach()) == pytest.approx(0, abs=0.1)
    assert float((invariance - exact).abs().max().detach()) == pytest.approx(0, abs=0.2)
