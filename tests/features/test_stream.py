import torch

from invariances.features.stream import Features, FeatureStream
from invariances.system.seeds import seeded


class Table:
    """A source in memory: item i has mean i + start."""

    def __init__(self, n, start=0):
        self.n, self.start = n, start

    def shape(self, layer):
        return (2,)

    def batch(self, indices, layer):
        value = (indices + self.start).float()[:, None].expand(-1, 2)
        return value, torch.full_like(value, -30.0), value * 10


def test_several_sources_read_as_one_in_the_order_asked_for():
    features = Features([Table(3), Table(4, start=3), Table(2, start=7)], "x")
    indices = torch.tensor([8, 0, 3, 2, 6, 7, 3])
    mean, _, z = features.batch(indices)
    assert features.n == 9
    assert torch.equal(mean[:, 0], indices.float())
    assert torch.equal(z, mean * 10)


def test_chunks_of_all_ranks_cover_every_item_once():
    features = Features(Table(23), "x")
    seen = torch.cat([c[0] for rank in range(3) for c in features.chunks(4, rank=rank, world=3)])
    assert torch.equal(seen.sort().values, torch.arange(23))


def test_an_epoch_sees_every_item_once_and_the_next_in_another_order():
    stream = FeatureStream(Features(Table(24), "x"), 4, seed=1)
    first = torch.cat([stream.indices(step) for step in range(6)])
    second = torch.cat([stream.indices(step) for step in range(6, 12)])
    assert torch.equal(first.sort().values, torch.arange(24))
    assert torch.equal(second.sort().values, torch.arange(24))
    assert not torch.equal(first, second)


def test_ranks_share_each_step_without_overlap():
    features = Features(Table(24), "x")
    ranks = [FeatureStream(features, 4, seed=1, rank=r, world=3) for r in range(3)]
    one = FeatureStream(features, 12, seed=1)
    assert torch.equal(torch.cat([each.indices(1) for each in ranks]), one.indices(1))


def test_fewer_items_than_a_batch_make_epochs_of_one_step():
    stream = FeatureStream(Features(Table(3), "x"), 16)
    assert len(stream) == 1
    assert len(list(stream)) == 1
    assert stream.at(0)[0].shape == (3, 2)


def test_a_resumed_stream_goes_on_with_the_very_same_batches():
    features = Features(Table(20), "x")
    whole = FeatureStream(features, 4, seed=3)
    batches = [batch for _ in range(3) for batch in whole]
    for done in (0, 3, 5, 7):
        other = FeatureStream(features, 4, seed=3)
        other.load_state_dict({"step": done})
        rest = [batch for _ in range(3) for batch in other]
        for whole_batch, batch in zip(batches[done:], rest):
            assert all(torch.equal(*pair) for pair in zip(whole_batch, batch, strict=True))


def test_batches_say_which_items_they_are_of():
    _, z, indices = FeatureStream(Features(Table(20), "x"), 4, seed=3).at(2)
    assert torch.equal(z[:, 0], indices * 10.0)


def test_latents_are_drawn_anew_each_epoch_and_rank():
    class Wide(Table):
        def batch(self, indices, layer):
            mean, _, z = super().batch(indices, layer)
            return mean, torch.zeros_like(mean), z

    features = Features(Wide(8), "x")
    stream = FeatureStream(features, 8)

    def noise(latent, z, _):
        return (latent - z / 10)[z[:, 0].argsort()]

    assert not torch.equal(noise(*stream.at(0)), noise(*stream.at(1)))
    many = torch.cat([noise(*stream.at(step)) for step in range(500)])
    assert abs(many.mean()) < 0.05
    assert abs(many.std() - 1) < 0.05


def test_seeded_depends_on_every_part():
    draws = {
        float(torch.rand((), generator=seeded(*parts))) for parts in (("a", 1), ("a", 2), ("b", 1), ("a1",))
    }
    assert len(draws) == 4
    assert torch.rand((), generator=seeded("a", 1)) == torch.rand((), generator=seeded("a", 1))
