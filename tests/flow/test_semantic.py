import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from invariances.flow.semantic import SemanticFlow
from invariances.system.errors import UserError


def made(blocks=2):
    torch.manual_seed(0)
    flow = SemanticFlow(7, {"a": 1, "b": 2}, blocks=blocks, width=16)
    flow.train()(torch.randn(64, 7) * 2 + 1)
    return flow.eval().requires_grad_(False).double()


def test_the_inverse_undoes_and_the_log_determinant_is_that_of_the_jacobian():
    flow = made()
    x = torch.randn(5, 7, dtype=torch.float64)
    codes, log_det = flow(x)
    assert torch.allclose(flow.inverse(codes), x, atol=1e-9)
    for one, expected in zip(x, log_det):
        jacobian = torch.autograd.functional.jacobian(lambda each: flow(each[None])[0][0], one)
        assert torch.linalg.slogdet(jacobian).logabsdet == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("shared", [(False, False), (True, False), (False, True), (True, True)])
def test_the_loss_is_the_density_of_a_pair_of_codes_whose_shared_factors_correlate(shared):
    flow, sigma = made(), 0.8
    a, b = torch.randn(2, 3, 7, dtype=torch.float64)
    cross = torch.diag(torch.tensor([0.0] * 4 + [sigma * shared[0]] + [sigma * shared[1]] * 2)).double()
    eye = torch.eye(7, dtype=torch.float64)
    covariance = torch.cat([torch.cat([eye, cross], 1), torch.cat([cross, eye], 1)])
    codes, log_det = flow(torch.cat([a, b]))
    density = MultivariateNormal(torch.zeros(14, dtype=torch.float64), covariance)
    expected = -density.log_prob(torch.cat(codes.chunk(2), dim=1)) - log_det[:3] - log_det[3:]
    assert torch.allclose(flow.loss(a, b, torch.tensor([shared] * 3), sigma), expected)


def test_an_edit_changes_the_code_of_its_factor_alone():
    flow = made()
    latents, others = torch.randn(2, 4, 7, dtype=torch.float64)
    edited, own, theirs = (flow(each)[0] for each in (flow.edit(latents, "b", others), latents, others))
    assert torch.allclose(edited[:, 5:], theirs[:, 5:])
    assert torch.allclose(edited[:, :5], own[:, :5])


def test_what_samples_keep_of_a_factor_is_one_of_copies_and_zero_of_others():
    flow = made(0)
    latents = torch.randn(4000, 7, dtype=torch.float64)
    other = latents.roll(1, 0)
    samples = torch.stack([torch.cat([latents[:, :5], other[:, 5:]], 1)] * 2, dim=1)
    kept = flow.kept(latents, samples)
    assert kept["a"] == 1
    assert kept["b"] == pytest.approx(0, abs=0.05)


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(UserError, match="do not fit"):
        SemanticFlow(4, {"a": 4})
    with pytest.raises(UserError, match="no factor"):
        made().edit(torch.zeros(1, 7), "c", torch.zeros(1, 7))
    assert math.isfinite(float(made().loss(*torch.zeros(2, 1, 7).double(), torch.ones(1, 2).bool())))
