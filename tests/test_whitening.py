import pytest
import torch

from invariances.flow import ConditionalFlow
from invariances.whitening import whiten_embedder


@pytest.mark.parametrize("shape", [(6,), (6, 4, 4), (6, 16, 16)])
def test_a_faint_channel_moves_the_embedders_first_layer_as_much_as_a_strong_one(shape) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([10.0, 1.0, 1.0, 0.1, 0.05, 0.02]).view(-1, *[1] * (len(shape) - 1))
    z = scale * torch.randn(2000, *shape, generator=generator) + 3.0
    flow = ConditionalFlow(8, shape, blocks=1, width=8, depth=1)
    first = next(m for m in flow.embedder.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d)))

    def influence() -> torch.Tensor:
        weight = first.weight.detach().movedim(1, 0).flatten(1).norm(dim=1)
        return weight * scale.flatten()

    assert float(influence().max() / influence().min()) > 100
    whiten_embedder(flow, z)
    assert float(influence().max() / influence().min()) < 4
    assert torch.isfinite(flow.log_prob(torch.randn(4, 8), z[:4])).all()


def test_constant_representations_and_flows_without_one_are_left_alone() -> None:
    flow = ConditionalFlow(8, (6,), blocks=1, width=8, depth=1)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    whiten_embedder(flow, torch.ones(20, 6))
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    whiten_embedder(ConditionalFlow(8, (), blocks=1, width=8, depth=1), torch.randn(20, 6))
