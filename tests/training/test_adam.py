import copy

import pytest
import torch
from torch import nn

from invariances.training.adam import AdamInBackward

SETTINGS = {"lr": 0.01, "betas": (0.5, 0.9), "weight_decay": 0.1}


def closure_of(net, optimizer, x):
    def closure():
        optimizer.zero_grad()
        loss = net(x).square().mean() + net[0].weight.square().sum()  # one weight is used twice
        loss.backward()
        return loss.detach()

    return closure


def test_it_is_adamw_to_the_bit_also_when_resumed_by_the_other_and_leaves_no_gradients():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Linear(3, 3))
    one[3].requires_grad_(False)
    other = copy.deepcopy(one)
    learning = [[each for each in net.parameters() if each.requires_grad] for net in (one, other)]
    ours = AdamInBackward(learning[0], **SETTINGS)
    usual = torch.optim.AdamW(learning[1], fused=True, **SETTINGS)
    for step in range(6):
        x = torch.randn(4, 5)
        losses = [
            optimizer.step(closure_of(net, optimizer, x)) for net, optimizer in ((one, ours), (other, usual))
        ]
        assert torch.equal(*losses)
        for a, b in zip(one.parameters(), other.parameters()):
            assert torch.equal(a, b)
            assert a.grad is None
        for group in (*ours.param_groups, *usual.param_groups):
            group["lr"] = 0.01 / (step + 2)
        if step == 2:
            states = [copy.deepcopy(each.state_dict()) for each in (ours, usual)]
            ours.load_state_dict(states[1])
            usual.load_state_dict(states[0])


def test_a_backward_pass_outside_of_a_step_moves_nothing():
    net = nn.Linear(2, 2)
    before = net.weight.clone()
    optimizer = AdamInBackward(net.parameters(), **SETTINGS)
    net(torch.ones(1, 2)).sum().backward()
    assert torch.equal(net.weight, before)
    with pytest.raises(TypeError, match="closure"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="broken"):
        optimizer.step(broken)
    net(torch.ones(1, 2)).sum().backward()
    assert torch.equal(net.weight, before)


def broken():
    raise RuntimeError("broken")
