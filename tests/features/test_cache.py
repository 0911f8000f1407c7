import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.data.images import ImageFolder
from invariances.features import shards
from invariances.features.cache import build_cache
from invariances.features.config import CacheConfig
from invariances.features.shards import Shards
from invariances.representation.representation import Representation
from invariances.system.errors import UserError

TRIAL, LOOK = 4, 4
"""Images that a build encodes to try the memory layout, and to see whether what is there still holds."""


class Pictures(Dataset):
    """Small noise pictures by index."""

    def __init__(self, n=20, seed=0, size=16):
        self.n, self.seed, self.size = n, seed, size

    def __len__(self):
        return self.n

    def fingerprint(self):
        return f"{self.n} {self.seed} {self.size}"

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        image = torch.rand(3, self.size, self.size, generator=generator) * 2 - 1
        return {"image": image, "label": index % 3}


class Autoencoder(nn.Module):
    latent_dim, image_size = 5, 16

    def __init__(self, seed=0):
        super().__init__()
        self.seed, self.calls = seed, 0
        torch.manual_seed(seed)
        self.linear = nn.Linear(3 * 16 * 16, 10)
        self.drop = nn.Dropout(0.5)

    def encode(self, images):
        self.calls += len(images)
        return DiagonalGaussian.from_moments(self.drop(self.linear(images.flatten(1))))

    def fingerprint(self):
        return f"autoencoder {self.seed}"


class Network(nn.Module):
    preprocessing = {"size": 16, "mean": 0.5, "std": 0.5}  # noqa: RUF012

    def __init__(self, scale=1.0, white=1.0):
        super().__init__()
        self.white = white  # what a white picture is multiplied with
        self.first = nn.Conv2d(3, 4, 3, stride=2)
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        self.fc = nn.Linear(6, 4)
        with torch.no_grad():
            self.second.weight.mul_(scale)

    def forward(self, x):
        x = x * torch.where(x.amin(dim=(1, 2, 3), keepdim=True) == 1, self.white, 1.0)
        return self.fc(self.second(self.first(x).relu()).mean(dim=(2, 3)))


class OneWhite(Pictures):
    """One of the pictures is white."""

    def __init__(self, at, **options):
        super().__init__(**options)
        self.at = at

    def fingerprint(self):
        return f"white {self.at} {super().fingerprint()}"

    def __getitem__(self, index):
        item = super().__getitem__(index)
        image = torch.ones_like(item["image"]) if index == self.at else item["image"]
        return {**item, "image": image, "path": f"{index}.png"}


def street_of(network):
    first = Representation(network, "first")
    return Autoencoder(), [first, first.at("second"), first.at("logits")]


@pytest.fixture
def street(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    torch.manual_seed(0)
    return street_of(Network())


def build(street, dataset=None, **options):
    running = {name: options.pop(name) for name in ("workers", "precision") if name in options}
    folder = options.pop("folder", None)
    config = CacheConfig(**{"batch_size": 8, "folder": str(folder) if folder else None, **options})
    pictures = Pictures() if dataset is None else dataset
    return build_cache(pictures, *street, config, progress=False, **running)


def expected(street, dataset, layer):
    autoencoder, representations = street
    images = torch.stack([dataset[k]["image"] for k in range(len(dataset))])
    (representation,) = [each for each in representations if each.layer == layer]
    with torch.no_grad():
        posterior = autoencoder.eval().encode(images)
        return posterior.mean, posterior.logvar, representation(images)


# What is read


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_what_the_networks_give(street, dtype):
    cache = build(street, dtype=dtype)
    assert (cache.n, len(cache), cache.layers) == (20, 20, ["first", "second", "logits"])
    indices = [7, 0, 19, 7]
    for layer in cache.layers:
        want = [each[indices] for each in expected(street, Pictures(), layer)]
        got = cache.batch(indices, layer)
        assert {each.dtype for each in got} == {torch.float32}
        assert cache.shape(layer) == tuple(want[2].shape[1:])
        assert cache.dtype(layer) == dtype
        for mine, theirs in zip(got, want):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 if dtype == "float16" else 1e-5)
    assert cache.labels.tolist() == [k % 3 for k in range(20)]


def test_probabilities_are_kept_as_float32(street):
    autoencoder, (first, *_) = street
    cache = build((autoencoder, [first, first.at("softmax")]))
    assert (cache.dtype("first"), cache.dtype("softmax")) == ("float16", "float32")
    with torch.no_grad():
        want = first.at("softmax")(Pictures()[3]["image"][None])
    torch.testing.assert_close(cache.batch([3], "softmax")[2], want, rtol=1e-5, atol=0)


def test_items_layers_and_loaders_agree_with_batches(street):
    cache = build(street)
    item = cache[4]
    assert set(item) == {"mean", "logvar", "z", "label", "index"}
    assert (item["label"], item["index"]) == (1, 4)
    view = cache.layer("second")
    loader = DataLoader(view, batch_size=6, collate_fn=tuple, num_workers=2)
    read = [torch.cat(parts) for parts in zip(*loader)]
    for mine, theirs in zip(read, cache.batch(range(20), "second")):
        assert torch.equal(mine, theirs)
    assert torch.equal(view[4][2], item["z"]["second"])


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_indices_of_any_kind(street, kind):
    cache = build(street)
    assert cache.batch(kind([3, 1]), "first")[0].shape == (2, 5)
    for bad in ([20], [-1]):
        with pytest.raises(IndexError, match="outside of a cache of 20"):
            cache.batch(kind(bad), "first")


def test_batches_can_be_trained_on(street):
    for max_gb in (1.0, 0.0):
        _, _, z = build(street, max_gb=max_gb).batch([0, 1], "logits")
        weight = torch.ones(4, requires_grad=True)
        (z * weight).sum().backward()
        assert weight.grad is not None


def test_unknown_layer(street):
    cache = build(street)
    for ask in (cache.layer, cache.shape, cache.dtype, lambda name: cache.batch([0], name)):
        with pytest.raises(UserError, match="'secnod' is not in this cache; it has 'second'"):
            ask("secnod")


# Once, and never stale


def test_second_run_computes_nothing_and_layers_share_moments(street):
    autoencoder, representations = street
    build((autoencoder, representations[:1]))
    assert autoencoder.calls == TRIAL + 20
    build(street)
    again = build(street)
    assert autoencoder.calls == TRIAL + 20 + 2 * (TRIAL + LOOK)
    assert again.layers == ["first", "second", "logits"]


def test_layers_of_one_network_take_one_pass(street):
    images = []
    street[1][0].network.first.register_forward_pre_hook(lambda module, inputs: images.append(len(inputs[0])))
    for each in street[1]:
        _ = each.shape
    build(street, Pictures(16))  # compiles the extractor
    images.clear()
    build(street, Pictures(24))
    assert sum(images) == 24


def test_autoencoder_and_global_randomness_stay_as_they_were(street):
    autoencoder = street[0].train()
    state = torch.get_rng_state()
    cache = build(street)
    assert torch.equal(state, torch.get_rng_state())
    assert autoencoder.training
    want = expected(street, Pictures(), "first")
    torch.testing.assert_close(cache.moments(range(20))[0], want[0])  # without dropout


def test_every_changed_input_is_another_cache(street, tmp_path):
    autoencoder, representations = street
    folder = tmp_path / "cache"

    def arrays(*args, **options):
        build(*args, folder=folder, **options)
        return len(list(folder.glob("*/manifest.json")))

    first = representations[:1]
    assert arrays((autoencoder, first)) == 3
    assert arrays((autoencoder, first)) == 3
    assert arrays((Autoencoder(1), first)) == 4
    assert arrays((autoencoder, first), dtype="float32") == 5
    assert arrays((autoencoder, [Representation(first[0], "first", mean=0.4)])) == 6
    assert arrays((autoencoder, [Representation(Network(2.0), "first")])) == 7
    assert arrays((autoencoder, representations[1:2])) == 8
    assert arrays((autoencoder, first), Pictures(seed=1)) == 11


def test_a_changed_file_is_read_anew(street, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(4):
        Image.new("RGB", (20, 20), (60 * k, 0, 0)).save(photos / f"{k}.png")
    before = build(street, ImageFolder(photos, size=16)).batch([2], "first")[0]
    Image.new("RGB", (20, 20), (0, 255, 0)).save(photos / "2.png")
    os.utime(photos / "2.png", ns=(5, 5))
    data = ImageFolder(photos, size=16)
    after = build(street, data).batch([2], "first")[0]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected(street, data, "first")[0][2:3])


def test_views_are_cached_as_items_of_their_own(street, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{k}.png")
    data = ImageFolder(photos, size=16, crop="random", views=4)
    cache = build(street, data)
    assert cache.n == 12
    torch.testing.assert_close(cache.moments(range(12))[0], expected(street, data, "first")[0])


class Bare(Dataset):
    """Without a fingerprint."""

    def __init__(self, shift=0.0):
        self.shift = shift

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"image": torch.full((3, 16, 16), index / 10 + self.shift)}


def test_data_sets_without_a_fingerprint_are_known_by_their_images(street):
    autoencoder = street[0]
    cache = build(street, Bare())
    build(street, Bare())
    assert autoencoder.calls == TRIAL + 10 + TRIAL + LOOK
    build(street, Bare(-0.5))
    assert autoencoder.calls == TRIAL + 10 + TRIAL + LOOK + TRIAL + 10
    assert set(cache.labels.tolist()) == {-1}


def test_subsets_and_concatenations(street):
    autoencoder = street[0]
    cache = build(street, Subset(Pictures(), [5, 3]))
    torch.testing.assert_close(cache.moments([0, 1])[0], build(street).moments([5, 3])[0])
    other = build(street, Subset(Pictures(), [3, 5]))
    torch.testing.assert_close(other.moments([1, 0])[0], cache.moments([0, 1])[0])
    build(street, ConcatDataset([Pictures(6), Pictures(6, seed=1)]))
    assert autoencoder.calls == 2 + 20 + 2 + 12 + 4 * TRIAL
    build(street, ConcatDataset([Pictures(6), Pictures(6, seed=1)]))
    assert autoencoder.calls == 36 + 4 * TRIAL + TRIAL + LOOK


def test_workers_give_the_same_rows(street, tmp_path):
    one = build(street, folder=tmp_path / "a")
    two = build(street, folder=tmp_path / "b", workers=2)
    assert torch.equal(one.batch(range(20), "first")[2], two.batch(range(20), "first")[2])


# float16's range


@pytest.mark.parametrize("large_at", [0, 17])
def test_values_beyond_float16_are_stored_as_float32(street, large_at, capfd):
    street, spike = street_of(Network(white=1e6)), OneWhite(large_at)
    cache = build(street, spike)
    assert cache.dtype("first") == "float32"
    z = cache.batch(range(20), "first")[2]
    assert z.isfinite().all()
    assert z.abs().max() > 65504
    torch.testing.assert_close(z, expected(street, spike, "first")[2], rtol=1e-3, atol=1e-2)
    assert "layer 'first' reaches" in capfd.readouterr().err
    assert build(street, spike).dtype("first") == "float32"


def test_not_a_number_is_an_error_that_names_the_picture(street):
    with pytest.raises(UserError, match=r"came out as NaN or infinity for '9\.png'"):
        build(street_of(Network(white=float("nan"))), OneWhite(9))


# Budget


def test_layers_above_the_budget_are_computed_and_one_line_says_so(street, capfd):
    sizes = {"first": 4 * 7 * 7, "second": 6 * 3 * 3, "logits": 4}
    fixed = 20 * (8 + 40)
    cache = build(street, max_gb=(fixed + 2 * 20 * (sizes["second"] + sizes["logits"])) / 1e9)
    assert [cache.on_the_fly(layer) for layer in cache.layers] == [True, False, False]
    told = capfd.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "layer 'first' would take" in told[0]
    assert "computed at every step" in told[0]
    assert cache.dtype("first") == "float32"
    assert cache.shape("first") == (4, 7, 7)
    want = expected(street, Pictures(), "first")
    for mine, theirs in zip(cache.batch([3, 18], "first"), want):
        torch.testing.assert_close(mine, theirs[[3, 18]], rtol=1e-4, atol=1e-5)


def test_what_is_on_the_disk_is_used_whatever_the_budget(street):
    build(street)
    assert not build(street, max_gb=0).on_the_fly("first")


# Interruptions


def rows_left(street, folder):
    there = [found for path in Path(folder).glob("*/") if (found := Shards.load(path)) and found.done]
    before = street[0].calls + TRIAL + (LOOK if len(there) > 1 else 0)
    cache = build(street, folder=folder)
    for layer in cache.layers:
        want = expected(street, Pictures(), layer)
        torch.testing.assert_close(cache.batch(range(20), layer)[2], want[2], rtol=1e-3, atol=1e-3)
    return street[0].calls - before - 20 * len(cache.layers)  # less what `expected` encodes


def test_ctrl_c_keeps_what_is_done(street, tmp_path, capfd):
    class Interrupted(Pictures):
        def __getitem__(self, index):
            if index == 17:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        build(street, Interrupted(), folder=tmp_path)
    assert "16 of 20 images are cached; the same command goes on from there" in capfd.readouterr().err
    assert rows_left(street, tmp_path) == 4


SCRIPT = """
    import os, sys, time, torch
    sys.path.insert(0, {tests!r})
    import test_cache
    from invariances.features import claims, filling
    filling.COMMIT_SECONDS = 0.0
    claims._BYTES = {locks_bytes}
    if not claims._BYTES:
        del os.preadv

    class Slow(test_cache.Pictures):
        def __getitem__(self, index):
            time.sleep({pause})
            return super().__getitem__(index)

    torch.manual_seed(0)
    torch.set_num_threads(1)
    first = test_cache.Representation(test_cache.Network(), "first")
    autoencoder = test_cache.Autoencoder()
    street = autoencoder, [first, first.at("second"), first.at("logits")]
    cache = test_cache.build(street, Slow(), folder={folder!r}, batch_size=2, workers={workers})
    print(autoencoder.calls, float(cache.batch(range(20), "first")[2].sum()))
"""


def process(folder, pause=0.0, workers=0, locks_bytes=True):
    given = {"pause": pause, "workers": workers, "locks_bytes": locks_bytes}
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), **given)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(folder, rows, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = [Shards.load(path) for path in Path(folder).glob("*/")]
        if len(found) == 5 and all(each and each.done >= rows for each in found):
            return
        time.sleep(0.02)
    raise AssertionError("the build did not come so far")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_build_goes_on_and_its_lock_is_free(street, tmp_path, workers):
    victim = process(tmp_path, pause=0.3, workers=workers)
    try:
        wait_for_rows(tmp_path, 10)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=30)
    assert 0 < rows_left(street, tmp_path) <= 12  # whole batches of 8


def tree(folder):
    """All files of a cache but for its locks, with their bytes."""
    found = [path for path in Path(folder).glob("*/*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("workers", [0, 1])
def test_processes_fill_each_its_part_with_the_bytes_of_one(street, tmp_path, workers):
    both = [process(tmp_path / "two", pause=0.2, workers=workers) for _ in range(2)]
    out = [each.communicate(timeout=90) for each in both]
    assert [each.returncode for each in both] == [0, 0], out
    calls, sums = zip(*(text.split() for text, _ in out))
    assert 20 + 2 * TRIAL <= sum(map(int, calls)) <= 20 + 2 * (TRIAL + LOOK)  # each picture once
    assert sums[0] == sums[1]
    process(tmp_path / "one").communicate(timeout=90)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_waiting_for_a_process_that_gets_killed_does_not_hang(tmp_path):
    holder = process(tmp_path, pause=0.5)
    try:
        wait_for_rows(tmp_path, 2)
        holder.send_signal(signal.SIGSTOP)
        waiter = process(tmp_path)
        assert any("another process builds this cache; waiting for it" in line for line in waiter.stderr)
        assert waiter.poll() is None
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=30)
    out, err = waiter.communicate(timeout=60)
    assert waiter.returncode == 0, err
    assert TRIAL + LOOK < int(out.split()[0]) < TRIAL + LOOK + 20


def test_where_bytes_cannot_be_locked_one_process_fills_all_and_the_others_wait(street, tmp_path):
    """As on Windows."""
    process(tmp_path / "one").communicate(timeout=90)
    victim = process(tmp_path / "two", pause=0.3, locks_bytes=False)
    try:
        wait_for_rows(tmp_path / "two", 4)
        victim.send_signal(signal.SIGSTOP)
        waiter = process(tmp_path / "two", locks_bytes=False)
        assert any("another process builds this cache; waiting for it" in line for line in waiter.stderr)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=30)
    out, err = waiter.communicate(timeout=60)
    assert waiter.returncode == 0, err
    assert TRIAL + LOOK < int(out.split()[0]) < TRIAL + LOOK + 20
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize("damage", ["manifest", "shard", "missing"])
def test_a_damaged_array_is_built_again(street, tmp_path, damage):
    build(street, folder=tmp_path)
    for manifest in tmp_path.glob("*/manifest.json"):
        if damage == "manifest":
            manifest.write_text(manifest.read_text()[:30])
        elif damage == "shard":
            os.truncate(manifest.with_name("00000.bin"), 3)
        else:
            manifest.with_name("00000.bin").unlink()
    assert rows_left(street, tmp_path) == 20


# Disks and folders


def test_a_folder_that_cannot_be_written(street, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot be written .* choose another folder as cache.folder"):
        build(street, folder=tmp_path / "file" / "cache")


def test_a_finished_cache_needs_no_right_to_write(street, tmp_path, monkeypatch):
    build(street, folder=tmp_path)
    monkeypatch.setattr("invariances.features.filling.claiming", None)
    monkeypatch.setattr(Path, "mkdir", None)
    assert build(street, folder=tmp_path).n == 20


def test_a_disk_too_small_is_told_before_the_pass(street, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100})()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"has 1e-07 GB free; free some space"):
        build(street, folder=tmp_path)
    assert street[0].calls == 0


def test_a_disk_that_fills_up_keeps_what_is_done(street, tmp_path, monkeypatch):
    """The limit on file size stands for the disk: the system itself refuses to write on."""
    monkeypatch.setattr("invariances.features.filling.COMMIT_SECONDS", 0.0)
    row, limits = 2 * 4 * 7 * 7, resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (row * 12, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot be written"):
            build(street, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert rows_left(street, tmp_path) == 12


def test_the_sentence_for_a_full_disk(tmp_path):
    with pytest.raises(UserError, match=r"is full .*goes on from here"), shards.writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    if os.path.exists("/dev/full"):
        array = Shards(tmp_path / "a", 4, (3,), "float32")
        array.start()
        (tmp_path / "a" / "00000.bin").symlink_to("/dev/full")
        with pytest.raises(UserError, match="is full"):
            array.write(0, np.zeros((4, 3), np.float32))


# Bad data sets


def test_bad_data_sets_get_a_sentence(street):
    class Tuples(Pictures):
        def __getitem__(self, index):
            return super().__getitem__(index)["image"], 0, "a name"

    class Holes(Pictures):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return {"image": item["image"] * (float("nan") if index == 9 else 1), "path": f"{index}.png"}

    class Bytes(Pictures):
        def __getitem__(self, index):
            return {"image": torch.zeros(3, 16, 16, dtype=torch.uint8)}

    class Ragged(Pictures):
        def __getitem__(self, index):
            return {"image": torch.zeros(3, 16, 16 + index)}

    for data, words in [
        (Pictures(0), "the data set is empty"),
        (Tuples(), "must be dicts with an 'image'.*tuple"),
        (Holes(), r"image '9\.png' of the data set has values that are no finite numbers"),
        (Bytes(), "uint8"),
        (Ragged(), "must have one size"),
        (
            Pictures(size=20),
            r"images have 20 × 20 pixels and the autoencoder takes 16 × 16; load them with size=16",
        ),
    ]:
        with pytest.raises(UserError, match=words):
            build(street, data)
    with pytest.raises(UserError, match=r"cache.dtype is 'float8'; use"):
        build(street, dtype="float8")
    with pytest.raises(UserError, match="not all different"):
        build((street[0], [street[1][0], street[1][0]]))


# Shards


def test_many_shards_read_like_one(tmp_path):
    rows = np.random.default_rng(0).normal(size=(50, 3, 2)).astype(np.float32)
    array = Shards(tmp_path / "a", 50, (3, 2), "float32", rows_per_shard=7)
    array.start()
    for first in range(0, 50, 11):
        array.write(first, rows[first : first + 11])
    array.commit()
    array.close()
    assert len(list((tmp_path / "a").glob("*.bin"))) == 8
    found = Shards.load(tmp_path / "a")
    assert found is not None
    assert found.complete
    order = np.random.default_rng(1).integers(0, 50, 200)
    assert np.array_equal(found.read(order), rows[order])


def test_rows_count_only_once_committed(tmp_path):
    array = Shards(tmp_path / "a", 6, (), "int64", rows_per_shard=4)
    array.start()
    array.write(2, np.arange(2, 5))
    assert Shards.load(tmp_path / "a").done == 0
    assert array.commit()
    array.write(5, np.arange(5, 6))
    array.close()
    again = Shards.load(tmp_path / "a")
    assert again.there().tolist() == [False, False, True, True, True, False]
    assert again.read(np.arange(2, 5)).tolist() == [2, 3, 4]
    assert again.lacks(range(1, 3))
    assert not again.lacks(range(2, 5))
    again.write(5, np.array([50]))
    again.write(0, np.array([0, 1]))
    assert again.commit()
    again.close()
    whole = Shards.load(tmp_path / "a")
    assert whole.complete
    assert whole.read(np.arange(6)).tolist() == [0, 1, 2, 3, 4, 50]


def test_who_writes_an_array_that_was_begun_anew_spoils_nothing(tmp_path):
    old = Shards(tmp_path / "a", 4, (2,), "float16", rows_per_shard=2)
    old.start()
    old.write(0, np.ones((1, 2)))
    assert old.commit()
    new = Shards(tmp_path / "a", 4, (2,), "float32", rows_per_shard=2)
    new.start()
    new.write(0, np.full((4, 2), 7))
    assert new.commit()
    old.write(1, np.ones((3, 2)))
    assert not old.commit()
    assert not old.lacks(range(4))
    assert np.array_equal(Shards.load(tmp_path / "a").read(np.arange(4)), np.full((4, 2), 7))


def test_rows_that_another_process_wrote_need_no_more_room(street, tmp_path, monkeypatch):
    """A draft of everything, none of it certain yet, on a disk with no room left."""
    build(street, folder=tmp_path)
    for ledger in tmp_path.glob("*/rows.done"):
        ledger.write_bytes(bytes(20))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0})())
    assert rows_left(street, tmp_path) == 20


def test_caches_of_one_process_with_a_count_in_the_manifest_are_read(street, tmp_path):
    build(street, folder=tmp_path)
    for ledger in tmp_path.glob("*/rows.done"):
        manifest = ledger.with_name("manifest.json")
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "done": 20}))
        ledger.unlink()
    assert rows_left(street, tmp_path) == 0


def test_reading_takes_memory_for_a_batch_only(tmp_path):
    """Mapped pages belong to the system's file cache: the process's own memory does not grow with the array."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc")
    array = Shards(tmp_path / "a", 1500, (64, 64, 4), "float32")
    array.start()
    for first in range(0, 1500, 100):
        array.write(first, np.full((100, 64, 64, 4), first, np.float32))
    array.commit()
    array.close()

    def own():
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line]
        return int(line.split()[1]) * 1024

    array = Shards.load(tmp_path / "a")
    array.read(np.arange(16))
    before = own()
    for first in range(0, 1500 - 16, 16):
        array.read(np.arange(first, first + 16))
    assert array.bytes > 90e6
    assert own() - before < 10e6
