import pytest
import torch
from torch.utils.data import DataLoader

from invariances.data.drawing import draw, oklch
from invariances.data.shapes import FACTORS, SHAPES, TEXTURES, Factor, Shapes
from invariances.system.errors import UserError


def plain(**changes: float) -> dict[str, torch.Tensor]:
    values = {"shape": 7, "texture": 0, "foreground_hue": 0.1, "background_hue": 0.6}
    values |= {"x": 0.0, "y": 0.0, "size": 0.7, "rotation": 0.0, **changes}
    return {name: torch.tensor([values[name]]) for name in FACTORS}


def test_a_picture_depends_on_seed_and_index_alone() -> None:
    world = Shapes(1000, seed=3)
    together = world.images(range(200, 300))
    assert torch.equal(together[40:41], world.images([240]))
    assert torch.equal(together, Shapes(5000, seed=3).images(range(200, 300)))
    assert torch.equal(world[240]["image"], together[40])
    assert not torch.equal(together, Shapes(1000, seed=4).images(range(200, 300)))


def test_images_are_in_range_and_use_it() -> None:
    images = Shapes(300).images(range(300))
    assert images.shape == (300, 3, 64, 64)
    assert images.dtype == torch.float32
    assert -1 <= float(images.min()) < -0.8
    assert 0.9 < float(images.max()) <= 1


def test_factors_are_uniform_and_independent() -> None:
    factors = Shapes(20_000, seed=9).factors(range(20_000))
    columns = []
    for name, factor in FACTORS.items():
        value = factors[name].double()
        if factor.discrete:
            assert torch.bincount(factors[name]).tolist() == pytest.approx([2500] * 8, rel=0.1)
        else:
            assert factor.low <= float(value.min()) <= float(value.max()) <= factor.high
            assert float(value.mean()) == pytest.approx(
                (factor.low + factor.high) / 2, abs=0.02 * (factor.high - factor.low)
            )
            assert float(value.std()) == pytest.approx((factor.high - factor.low) / 12**0.5, rel=0.02)
        columns.append((value - value.mean()) / value.std())
    correlation = torch.stack(columns) @ torch.stack(columns).T / 20_000
    assert float((correlation - torch.eye(8)).abs().max()) < 0.03


def test_the_factors_move_what_they_name() -> None:
    base = draw(plain())
    assert torch.allclose(draw(plain(x=0.125))[..., :, 4:], base[..., :, :-4], atol=1e-4)
    assert torch.allclose(draw(plain(y=0.125))[..., 4:, :], base[..., :-4, :], atol=1e-4)
    left, right = draw(plain(rotation=-30.0)), draw(plain(rotation=30.0))
    assert torch.allclose(left, right.flip(3), atol=1e-4)
    area = [(draw(plain(size=s)) - draw(plain(size=0.01))).abs().sum() for s in (0.5, 0.75)]
    assert float(area[1] / area[0]) == pytest.approx(2.25, rel=0.1)
    corner = draw(plain(size=0.5))[0, :, 0, 0]
    assert torch.allclose((corner + 1) / 2, oklch(0.80, 0.085, torch.tensor([0.6]))[0], atol=1e-5)
    assert torch.equal(draw(plain(foreground_hue=0.9))[0, :, 0, 0], draw(plain())[0, :, 0, 0])


def test_every_shape_and_texture_is_its_own() -> None:
    for name, kinds in (("shape", SHAPES), ("texture", TEXTURES)):
        pictures = torch.cat([draw(plain(**{name: k})) for k in range(len(kinds))])
        gaps = torch.cdist(pictures.flatten(1), pictures.flatten(1), p=1) / pictures[0].numel()
        assert float(gaps[~torch.eye(8, dtype=torch.bool)].min()) > 0.02


def test_no_figure_looks_the_same_turned_within_its_range() -> None:
    angles = torch.arange(-45, 46, 15).float()
    for kind in range(len(SHAPES)):
        factors = {n: v.expand(len(angles)) for n, v in plain(shape=kind).items()} | {"rotation": angles}
        pictures = draw(factors).flatten(1)
        gaps = torch.cdist(pictures, pictures, p=1) / pictures.shape[1]
        assert float(gaps[~torch.eye(len(angles), dtype=torch.bool)].min()) > 0.015


def test_edges_are_anti_aliased() -> None:
    fine = draw(plain(texture=1, rotation=20.0), 256)
    small = torch.nn.functional.avg_pool2d(fine, 4)
    assert float((small - draw(plain(texture=1, rotation=20.0), 64)).abs().mean()) < 0.02


def test_targets_correlations_and_fixed_values() -> None:
    world = Shapes(2000, target="texture", correlate=("shape", "texture"), fixed={"x": 0.1, "size": 0.6})
    factors = world.factors(range(2000))
    assert torch.equal(factors["shape"], factors["texture"])
    assert torch.equal(world.labels(range(2000)), factors["texture"])
    assert factors["x"].unique().tolist() == pytest.approx([0.1])
    half = Shapes(4000, correlate=("shape", "texture"), correlation=0.5).factors(range(4000))
    agree = (half["shape"] == half["texture"]).float().mean()
    assert float(agree) == pytest.approx(0.5 + 0.5 / 8, abs=0.03)
    hues = Shapes(500, correlate=("shape", "foreground_hue")).factors(range(500))
    assert torch.equal((hues["foreground_hue"] * 8).long(), hues["shape"])
    assert Shapes(target="foreground_hue").labels(range(400)).unique().tolist() == list(range(8))
    assert Shapes(target="x").labels(range(400)).unique().tolist() == [0, 1]
    assert Shapes(fixed={"shape": "heart"}).factors(range(5))["shape"].tolist() == [1] * 5


def test_loaders_and_items() -> None:
    world = Shapes(64, target="texture")
    batch = next(iter(DataLoader(world, batch_size=16)))
    assert batch["image"].shape == (16, 3, 64, 64)
    assert torch.equal(batch["image"], world.images(range(16)))
    assert torch.equal(batch["label"], batch["factors"]["texture"])
    assert batch["index"].tolist() == list(range(16))
    with pytest.raises(IndexError):
        world[64]
    with pytest.raises(IndexError):
        world.images([64])


def test_fingerprint_follows_the_pictures() -> None:
    prints = {Shapes(10).fingerprint(), Shapes(11).fingerprint(), Shapes(10, seed=1).fingerprint()}
    prints |= {Shapes(10, fixed={"x": 0.0}).fingerprint(), Shapes(10, correlate=("shape", "x")).fingerprint()}
    assert len(prints) == 5
    assert Shapes(10).fingerprint() == Shapes(10).fingerprint()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0}, "at least one"),
        ({"target": "shap"}, "shape, texture"),
        ({"correlate": ("shape", "hue")}, "foreground_hue"),
        ({"fixed": {"shape": "hart"}}, "heart"),
        ({"fixed": {"size": 2.0}}, "0.75"),
        ({"correlation": 2.0}, "between 0 and 1"),
    ],
)
def test_errors_name_what_is_wrong(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Shapes(**arguments)  # type: ignore[arg-type]


def test_continuous_and_discrete_values() -> None:
    assert Factor(kinds=("a", "b")).at(torch.tensor([0.0, 0.49, 0.5, 0.999])).tolist() == [0, 0, 1, 1]
    assert Factor(-1, 1).at(torch.tensor([0.0, 0.5])).tolist() == [-1, 0]
