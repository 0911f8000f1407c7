import pytest
import torch
from torch import nn

from invariances.data import TestSamples, TrainSamples
from invariances.data.identity import identify, overlap
from invariances.data.published.samples import truncated_normal
from invariances.system.errors import UserError


class Tiny(nn.Module):
    code_dim = 6

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.table, self.linear = nn.Embedding(10, 6), nn.Linear(6, 3 * 4 * 4)

    def decode(self, z, class_index):
        return self.linear(z + self.table(class_index)).tanh().unflatten(1, (3, 4, 4))


def test_pictures_are_the_generators_of_their_latents_and_classes():
    generator = Tiny()
    data = TrainSamples(generator, 40, n_classes=10)
    item = data[17]
    z, label = data.latents(17)
    assert torch.equal(item["z"], z)
    assert item["label"] == label
    torch.testing.assert_close(item["image"], generator.decode(z[None], torch.tensor([label]))[0].detach())
    assert not item["image"].requires_grad
    assert len({data[k]["label"] for k in range(40)} & set(range(10))) > 7
    for together, k in zip(data.__getitems__(range(40)), range(40), strict=True):
        torch.testing.assert_close(together["image"], data[k]["image"])
    with pytest.raises(IndexError):
        data[40]


def test_seeds_and_the_test_set():
    train, test = TrainSamples(Tiny(), 30, n_classes=10), TestSamples(Tiny(), 30, n_classes=10)
    assert overlap(identify(train), identify(test)) == []
    assert identify(test) == identify(TestSamples(Tiny(), 30, n_classes=10))
    assert len(overlap(identify(train), identify(TrainSamples(Tiny(), 90, n_classes=10)))) == 30
    assert overlap(identify(train), identify(TrainSamples(Tiny(1), 30, n_classes=10))) == []
    assert train.fingerprint() != TrainSamples(Tiny(), 31, n_classes=10).fingerprint()
    assert torch.equal(test.latents(3)[0], TrainSamples(Tiny(), 30, n_classes=10, seed=1).latents(3)[0])


def test_truncation_draws_again_what_lies_beyond():
    generator = torch.Generator().manual_seed(0)
    z = truncated_normal(20_000, 0.5, generator)
    assert z.abs().max() <= 0.5
    assert abs(z.var().item() - 0.0806) < 0.003  # of a normal cut at ± 0.5
    assert truncated_normal(20_000, 0, generator).abs().max() > 3


@pytest.mark.parametrize(
    "options",
    [
        {"length": 0},
        {"n_classes": 0},
        {"truncation": -1.0},
        {"truncation": float("nan")},
        {"truncation": 1e-9},
    ],
)
def test_impossible_options(options):
    with pytest.raises(UserError):
        TrainSamples(Tiny(), **options)
    with pytest.raises(UserError, match="2 names were given for 10"):
        TrainSamples(Tiny(), n_classes=10, classes=["a", "b"])
