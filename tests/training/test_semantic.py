import torch

from invariances.flow.semantic import SemanticFlow
from invariances.system.seeds import seeded
from invariances.training.semantic import train_semantic

SIGMA = 0.9


def linear_world(mixing, n, generator):
    """Pairs of latents, a rotation of independent codes; the pair shares the first code or the second."""
    a, fresh = torch.randn(2, n, len(mixing), generator=generator)
    shared = torch.zeros(n, 2, dtype=torch.bool)
    shared[torch.arange(n), torch.randint(2, (n,), generator=generator)] = True
    sigma = torch.zeros(n, len(mixing))
    sigma[:, :2] = SIGMA * shared
    b = sigma * a + (1 - sigma.square()).sqrt() * fresh
    return a @ mixing.T, b @ mixing.T, shared, a


def test_pairs_teach_the_factors_of_a_linear_world_and_edits_move_one_alone():
    torch.manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(6, 6)).Q
    flow = train_semantic(
        SemanticFlow(6, {"first": 1, "second": 1}, blocks=3, width=32),
        lambda step: linear_world(mixing, 512, seeded("pairs", step))[:3],
        600,
        SIGMA,
        progress=False,
    )
    latents, _, _, truth = linear_world(mixing, 2000, seeded("test"))
    codes = flow(latents)[0]
    found = torch.corrcoef(torch.cat([codes[:, 4:], truth], dim=1).T)[:2, 2:].abs()
    assert found.diagonal().min() > 0.98
    assert found.fill_diagonal_(0).max() < 0.15
    edited = flow.edit(latents, "first", latents.roll(1, 0)) @ mixing
    wanted = truth.clone()
    wanted[:, 0] = truth[:, 0].roll(1)
    explained = 1 - (edited - wanted).square().mean(0) / wanted.var(0)
    assert explained[:2].min() > 0.9
    assert explained.min() > 0.8
