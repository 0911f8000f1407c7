import torch

from invariances.flow.semantic import SemanticFlow
from invariances.system.seeds import seeded
from invariances.training.semantic import train_semantic


def test_families_teach_the_factors_of_a_rotated_world_and_edits_move_one_alone():
    """Latents are a rotation of six independent codes; a family's pictures share the first, the second, or neither.

    "nothing" is a kind that no latent tells.
    """
    generator = seeded("families")
    value = torch.randint(2, (2, 2000, 4), generator=generator)
    own = torch.randn(2, 2000, 2, generator=generator)
    kinds = torch.randint(8, (2000, 4), generator=generator)
    shared = torch.stack([*(torch.arange(2000)[:, None] * 2 + each for each in value), kinds], dim=-1)
    truth = torch.randn(2000, 4, 6, generator=generator)
    for k in range(2):
        truth[..., k] = own[k].gather(1, value[k])
    torch.manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(6, 6)).Q
    flow = train_semantic(
        SemanticFlow(6, {"first": 1, "second": 1, "nothing": 1}, width=32, depth=1),
        truth @ mixing.T,
        shared,
        200,
        64,
        progress=False,
    )
    fresh = torch.randn(2000, 6, generator=generator)
    latents = fresh @ mixing.T
    codes = flow(latents)[:, 6:]
    assert codes[:, 2].std() < 0.2, "what cannot be read goes by no name"
    found = torch.corrcoef(torch.cat([codes[:, :2], fresh], dim=1).T)[:2, 2:].abs()
    assert found.diagonal().min() > 0.98
    assert found.fill_diagonal_(0).max() < 0.15
    for name, moved in (("first", [0]), ("nothing", [])):
        edited = flow.edit(latents, name, latents.roll(1, 0)) @ mixing
        wanted = fresh.clone()
        wanted[:, moved] = fresh.roll(1, 0)[:, moved]
        explained = 1 - (edited - wanted).square().mean(0) / wanted.var(0)
        assert explained.min() > 0.9, name
