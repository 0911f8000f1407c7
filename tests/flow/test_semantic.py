import math

import pytest
import torch

from invariances.flow.semantic import SemanticFlow, unlikeness
from invariances.system.errors import UserError
from invariances.system.seeds import seeded


def made():
    torch.manual_seed(0)
    flow = SemanticFlow(7, {"a": 1, "b": 2}, width=16, depth=1)
    flow.mean.normal_()
    flow.deviation.uniform_(0.5, 2)
    return flow.eval().requires_grad_(False).double()


def test_the_inverse_undoes():
    flow = made()
    x = torch.randn(5, 7, dtype=torch.float64)
    codes = flow(x)
    assert codes.shape == (5, 10)
    assert torch.allclose(flow.inverse(codes), x, atol=1e-12)


def test_an_edit_writes_the_code_of_its_factor_alone_and_that_of_oneself_changes_nothing():
    flow = made()
    latents, others = torch.randn(2, 4, 7, dtype=torch.float64)
    residual, codes = flow(latents)[:, :7], flow(latents)[:, 7:]
    wanted = torch.cat([codes[:, :1], flow(others)[:, 8:]], dim=1)
    expected = (residual + flow.writing(wanted)) * flow.deviation + flow.mean
    assert torch.allclose(flow.edit(latents, "b", others), expected)
    assert torch.allclose(flow.edit(latents, "b", latents), latents, atol=1e-12)


def test_what_samples_keep_of_a_factor_is_one_of_copies_and_zero_of_others():
    flow = made()
    flow.reading = torch.nn.Linear(7, 3, bias=False).requires_grad_(False)
    flow.reading.weight.copy_(torch.eye(7)[4:])
    flow.double()
    latents = torch.randn(4000, 7, dtype=torch.float64)
    other = latents.roll(1, 0)
    samples = torch.stack([torch.cat([latents[:, :5], other[:, 5:]], 1)] * 2, dim=1)
    kept = flow.kept(latents, samples)
    assert kept["a"] == 1
    assert kept["b"] == pytest.approx(0, abs=0.05)


def test_unlikeness_is_zero_of_noise_least_of_what_is_shared_and_blind_to_linear_maps():
    generator = seeded("unlikeness")
    group = torch.arange(500).repeat(4)
    shared = torch.randn(500, 2, generator=generator, dtype=torch.float64)[group]
    noise = torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    told, half, nothing = (
        float(unlikeness(each, group, 0.95)) for each in (shared, 0.6**0.5 * shared + 0.4**0.5 * noise, noise)
    )
    assert told == pytest.approx(2 * math.log(0.05), abs=0.01)
    assert half == pytest.approx(2 * math.log(0.45), abs=0.1)
    assert nothing == pytest.approx(2 * math.log(1.05), abs=0.1)
    mixed = (0.6**0.5 * shared + 0.4**0.5 * noise) @ torch.tensor([[2.0, 1.0], [0.0, 3.0]]).double() + 5
    assert float(unlikeness(mixed, group, 0.95)) == pytest.approx(half, abs=1e-3)


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(UserError, match="give each one or more"):
        SemanticFlow(4, {"a": 0})
    with pytest.raises(UserError, match="no factor"):
        made().edit(torch.zeros(1, 7), "c", torch.zeros(1, 7))
