import copy

import pytest
import torch
from torch import nn

from invariances.training.muon import MuonAdam, orthogonal_factor


@pytest.mark.parametrize("shape", [(6, 6), (4, 30), (30, 4), (1, 5)])
def test_the_factor_has_the_matrix_directions_and_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    factor = orthogonal_factor(matrix)
    seen = left.T @ factor @ right.T
    assert (seen - seen.diagonal().diag()).abs().max() < 0.05
    assert seen.diagonal().min() > 0.6
    assert seen.diagonal().max() < 1.3


def test_the_first_step_moves_every_direction_by_the_learning_rate():
    weight = nn.Parameter(torch.zeros(8, 4, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    MuonAdam([weight], [weight], lr=0.01).step()
    moved = torch.linalg.svdvals(weight.detach().flatten(1)) / (0.01 * 0.2 * 36**0.5)
    assert moved.min() > 0.6
    assert moved.max() < 1.3


def test_matrices_of_one_shape_move_as_each_would_alone():
    torch.manual_seed(0)
    together = [nn.Parameter(torch.randn(shape)) for shape in ((6, 4), (3, 5), (6, 4), (6, 2, 2))]
    alone = copy.deepcopy(together)
    optimizers = [MuonAdam(together, together, lr=0.1, weight_decay=0.3)]
    optimizers += [MuonAdam([each], [each], lr=0.1, weight_decay=0.3) for each in alone]
    for _ in range(3):
        for one, other in zip(together, alone):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, alone):
        assert torch.allclose(one, other, atol=1e-2)  # bfloat16 rounds


def test_others_move_as_adam_moves_them():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    plain = copy.deepcopy(layer)
    muon = MuonAdam(layer.parameters(), [layer.weight], lr=0.01, betas=(0.5, 0.9), fused=True)
    adam = torch.optim.Adam([plain.bias], lr=0.01, betas=(0.5, 0.9), fused=True)
    for _ in range(3):
        layer.bias.grad, layer.weight.grad = torch.randn(3), torch.randn(3, 5)
        plain.bias.grad = layer.bias.grad.clone()
        muon.step()
        adam.step()
    assert torch.equal(layer.bias, plain.bias)


def test_a_saved_state_goes_on_to_the_bit():
    def make():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 2))
        return net, MuonAdam(net.parameters(), [net[0].weight], lr=0.01, fused=True)

    def step(net, optimizer, seed) -> None:
        images = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.step(lambda: (optimizer.zero_grad(), net(images).square().sum().backward()))

    whole, optimizer = make()
    for seed in range(4):
        step(whole, optimizer, seed)
        if seed == 1:
            saved = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    again, optimizer = make()
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    for seed in (2, 3):
        step(again, optimizer, seed)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))
