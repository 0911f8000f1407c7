"""Which pictures are kept out depends on each one's own name, and limits are spread over a set."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Subset, TensorDataset

from invariances.data.images import ImageFolder
from invariances.data.splitting import held_out_places, limited, place_of, split, spread
from invariances.system.errors import UserError

names = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=40, unique=True)


def test_places_are_what_they_were():
    """Runs of years ago keep out the same pictures."""
    assert place_of("a/00.png", 0) == int(hashlib.blake2b(b"0\0a/00.png", digest_size=8).hexdigest(), 16)
    many = [f"a/{k:03d}.jpg" for k in range(40)]
    assert held_out_places(many, 0.1, 0) == [2, 5, 11, 12, 25, 34, 37, 38, 39]
    assert held_out_places(many, 3, 0) == sorted(sorted(range(40), key=lambda k: place_of(many[k], 0))[:3])


def test_composed_and_decomposed_letters_are_one_name():
    assert place_of("é.jpg", 0) == place_of("e\u0301.jpg", 0)
    assert place_of("\udcff.jpg", 0) != place_of("\udcfe.jpg", 0)


@given(names, st.floats(0.001, 0.999) | st.sampled_from([1e-9, 1 - 1e-9]), st.integers(0, 5))
def test_a_share_is_a_bound_on_places(given_names, share, seed):
    held = held_out_places(given_names, share, seed)
    below = [k for k, name in enumerate(given_names) if place_of(name, seed) < int(share * 2**64)]
    assert 0 < len(held) < len(given_names)
    order = sorted(range(len(given_names)), key=lambda k: place_of(given_names[k], seed))
    if not below:
        assert held == order[:1]
    elif len(below) == len(given_names):
        assert held == sorted(order[:-1])
    else:
        assert held == below


@given(names, st.data())
def test_a_count_is_kept_exactly_with_the_lowest_places(given_names, data):
    count = data.draw(st.integers(1, len(given_names) - 1))
    held = held_out_places(given_names, count)
    assert len(held) == count
    rest = [k for k in range(len(given_names)) if k not in held]
    assert max(place_of(given_names[k], 0) for k in held) < min(place_of(given_names[k], 0) for k in rest)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_shares_are_met_in_every_class(share):
    for label in ("cat", "dog"):
        held = held_out_places([f"{label}/{k}.jpg" for k in range(4000)], share)
        assert abs(len(held) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_a_side_never_changes_when_files_come_or_go(tmp_path, fill):
    fill(tmp_path / "a", 30)
    fill(tmp_path / "b", 30)
    before = [set(part.names) for part in ImageFolder(tmp_path, size=8).split(0.3, seed=3)]
    fill(tmp_path / "b", 25, first=60)
    fill(tmp_path / "c", 10)
    for k in range(0, 30, 4):
        (tmp_path / "a" / f"{k:02d}.png").unlink()
    after = [set(part.names) for part in ImageFolder(tmp_path, size=8).split(0.3, seed=3)]
    assert not before[0] & after[1]
    assert not before[1] & after[0]
    assert len(before[0] & after[0]) > 20
    assert len(before[1] & after[1]) > 8


def test_sides_are_seeded_disjoint_and_whole(tmp_path, fill):
    fill(tmp_path / "a", 20)
    fill(tmp_path / "b", 20)
    data = ImageFolder(tmp_path, size=8)
    train, held = data.split(0.3, seed=3)
    assert sorted(train.paths + held.paths) == data.paths
    assert held.paths == data.split(0.3, seed=3)[1].paths
    assert held.paths != data.split(0.3, seed=4)[1].paths
    assert held.classes == data.classes
    assert held[0]["index"] == 0
    assert len(data.split(6)[1]) == 6
    assert len(data.split(1)[1]) == 1


def test_splits_of_very_few(tmp_path, fill):
    data = ImageFolder(fill(tmp_path, 3), size=8)
    for share in (0.0001, 0.9999):
        train, held = data.split(share)
        assert {len(train), len(held)} == {1, 2}
    with pytest.raises(UserError, match=r"00.png' is the only picture; a split needs at least two"):
        data.subset([0]).split()


@pytest.mark.parametrize(
    "given_share",
    [0, 0.0, 1.0, 1.5, -1, -0.1, float("nan"), float("inf"), True, False, None, "0.1", 3, 99],
)
def test_what_is_no_share_gets_a_sentence(tmp_path, fill, given_share):
    data = ImageFolder(fill(tmp_path, 3), size=8)
    with pytest.raises(UserError, match="held_out is"):
        data.split(given_share)


def test_other_data_sets_are_split_by_their_items_numbers():
    data = TensorDataset(torch.arange(50))
    train, held = split(data, 0.2, seed=1)
    assert sorted([*train.indices, *held.indices]) == list(range(50))
    assert held.indices == [k for k in range(50) if place_of(str(k), 1) < int(0.2 * 2**64)]
    longer = split(TensorDataset(torch.arange(80)), 0.2, seed=1)[1]
    assert longer.indices[: len(held)] == held.indices
    assert split(data, 0.2, seed=2)[1].indices != held.indices
    with pytest.raises(UserError, match="at least two pictures"):
        split(TensorDataset(torch.arange(1)), 0.2)


def test_a_tree_of_train_and_val_is_its_own_split(tmp_path, fill, capsys):
    for side, count in (("train", 6), ("val", 3), ("test", 2)):
        for label in ("cat", "dog"):
            fill(tmp_path / side / label, count)
    data = ImageFolder(tmp_path, size=8)
    told = capsys.readouterr().err
    assert "train and val" in told
    assert "(6)" in told
    assert "4 pictures of test are left out" in told
    assert data.classes == ["cat", "dog"]
    assert len(data) == 18
    train, held = data.split(0.1)
    assert {name.split("/")[0] for name in train.names} == {"train"}
    assert {name.split("/")[0] for name in held.names} == {"val"}
    assert held.labels == [0] * 3 + [1] * 3
    inner, validation = train.split(0.4)
    assert sorted(inner.names + validation.names) == sorted(train.names)
    with pytest.raises(UserError, match="held_out is"):
        data.split(1.0)


def test_a_picture_beside_train_and_val_does_not_make_them_classes(tmp_path, fill, capsys):
    for side, count in (("train", 4), ("val", 3), (".", 1)):
        fill(tmp_path / side, count)
    data = ImageFolder(tmp_path, size=8)
    assert "1 pictures of no sub-folder are left out" in capsys.readouterr().err
    assert [len(part) for part in data.split(0.5)] == [4, 3]


@pytest.mark.parametrize("other", ["Valid", "validation", "TEST"])
def test_other_names_of_held_out_folders(tmp_path, fill, other):
    fill(tmp_path / "Train", 4)
    fill(tmp_path / other, 3)
    data = ImageFolder(tmp_path, size=8)
    assert data.classes == []
    assert [len(part) for part in data.split(0.5)] == [4, 3]


def test_a_lone_train_folder_has_its_classes_and_no_sides(tmp_path, fill):
    fill(tmp_path / "train" / "cat", 12)
    fill(tmp_path / "train" / "dog", 12)
    data = ImageFolder(tmp_path, size=8)
    assert data.classes == ["cat", "dog"]
    assert held_out_places(data.names, 5) == [data.names.index(name) for name in data.split(5)[1].names]


def test_a_class_named_test_beside_others_is_a_class(tmp_path, fill):
    for name in ("train", "plane", "val"):
        fill(tmp_path / name, 2)
    assert ImageFolder(tmp_path, size=8).classes == ["plane", "train", "val"]


def test_places_are_spread_from_the_first_to_the_last():
    assert spread(3, 7) == [0, 3, 6]
    assert spread(9, 4) == [0, 1, 2, 3]
    assert spread(1, 5) == [0]
    assert spread(0, 5) == []
    assert spread(1000, 1_281_167)[-1] == 1_281_166


@given(st.integers(2, 60), st.integers(2, 10_000))
def test_places_are_nearest_to_evenly_spaced(count, total):
    places = spread(count, total)
    assert len(set(places)) == min(count, total)
    assert np.abs(np.asarray(places) - np.linspace(0, total - 1, len(places))).max() <= 0.5 + 1e-9


def test_a_limit_takes_some_of_every_class(tmp_path, fill):
    for name in "abc":
        fill(tmp_path / name, 10)
    data = ImageFolder(tmp_path, size=8)
    part = limited(data, 6)
    assert part.labels == [0, 0, 1, 1, 2, 2]
    assert limited(data, 30) is data
    assert limited(data, 999) is data
    assert limited(TensorDataset(torch.arange(9)), 3).indices == [0, 4, 8]
    assert isinstance(limited(Subset(data, range(20)), 5), Subset)
    for wrong in (0, -1, 2.5, None, True):
        with pytest.raises(UserError, match="leaves none"):
            limited(data, wrong)


def test_a_limit_counts_pictures_and_not_their_crops(tmp_path, fill):
    data = ImageFolder(fill(tmp_path, 9), size=8, crop="random", views=2)
    assert limited(data, 3).names == ["00.png", "04.png", "08.png"]
