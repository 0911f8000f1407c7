import os
import socket
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from invariances.data import images
from invariances.data.files import MAX_PIXELS, SUFFIXES
from invariances.data.images import (
    BrokenImage,
    ImageFolder,
    from_uint8,
    list_images,
    load_images,
    open_image,
    to_tensor,
    to_uint8,
)
from invariances.system.errors import UserError


@pytest.fixture(autouse=True)
def cache_home(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


def noise(width=12, height=10, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fill(folder, count=6, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.fromarray(noise(seed=k)).save(folder / f"{k:02d}{suffix}")
    return folder


def halves(width, height):
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


def giant_png(path, width, height):
    """A one-bit PNG of many pixels in a few kilobytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pack = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


# Folders


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere' does not exist; give a folder"):
        list_images(tmp_path / "nowhere")


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "a.zip").write_text("x")
    with pytest.raises(UserError, match="is a file, not a folder"):
        list_images(tmp_path / "a.zip")


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"holds no pictures \(found no files at all\)"):
        ImageFolder(tmp_path)


def test_folder_without_images_says_what_it_holds(tmp_path):
    for name in ("a.raw", "b.RAW", "c.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"found 2 × \.raw, 1 × \.txt"):
        list_images(tmp_path)


def test_no_folder_or_picture_given():
    with pytest.raises(UserError, match="no folder given"):
        ImageFolder([])
    with pytest.raises(UserError, match="no pictures given"):
        load_images([], 8)


def test_unreadable_folder(tmp_path, monkeypatch):
    fill(tmp_path / "locked")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"locked' cannot be read \(Permission denied\)"):
        list_images(tmp_path)


def test_listing_takes_regular_files_only_and_sorts(tmp_path):
    fill(tmp_path / "b", 2)
    fill(tmp_path / "a", 2)
    (tmp_path / "folder.jpg").mkdir()
    fill(tmp_path / ".hidden", 1)
    (tmp_path / "._b.jpg").write_text("resource fork")
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(fill(tmp_path.parent / "elsewhere", 1, ".JPG"))
    names = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert names == ["a/00.png", "a/01.png", "b/00.png", "b/01.png", "dead.jpg", "linked/00.JPG"]
    assert [path.name for path in list_images(tmp_path, recursive=False)] == ["dead.jpg"]


def test_overlapping_folders_are_refused(tmp_path):
    fill(tmp_path / "a")
    with pytest.raises(UserError, match="overlap"):
        ImageFolder([tmp_path, tmp_path / "a"])


@pytest.mark.parametrize("name", ["", 3, None, 2.5])
def test_what_is_no_folder_name(name):
    with pytest.raises(UserError, match="give"):
        ImageFolder(name)


def test_left_out_files_are_counted_by_ending_once(tmp_path, capsys):
    fill(tmp_path, 2)
    for name in ("a.raw", "b.RAW", "c.txt", ".hidden"):
        (tmp_path / name).write_text("x")
    assert len(ImageFolder(tmp_path, size=8)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [f"{tmp_path}: 2 pictures; left out by their endings: 2 × .raw, 1 × .txt"]
    ImageFolder(tmp_path, size=8)
    assert capsys.readouterr().err == ""


def test_many_endings_are_summed_up(tmp_path, capsys):
    fill(tmp_path, 1)
    for k in range(10):
        (tmp_path / f"x.e{k}").write_text("x")
    list_images(tmp_path)
    assert "1 × .e7, 2 others" in capsys.readouterr().err


def test_heic_without_its_reader_says_what_reads_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("invariances.data.files.SUFFIXES", (".jpg", ".png"))
    fill(tmp_path, 2)
    for k in range(5):
        (tmp_path / f"{k}.HEIC").write_text("x")
    assert len(list_images(tmp_path)) == 2
    told = capsys.readouterr().err
    assert "5 × .heic; `pip install pillow-heif` reads .heic" in told


# Kinds of files


@pytest.mark.parametrize("suffix", sorted(set(SUFFIXES) - {".pgm", ".heic", ".heif"}))
def test_every_ending_is_read(tmp_path, suffix):
    kinds = {".jpe": "JPEG", ".jfif": "JPEG"}
    halves(32, 32).save(tmp_path / f"a{suffix}", kinds.get(suffix))
    (image,) = load_images(tmp_path, 16)
    assert image[0, :, 2].min() > 0.9
    assert image[2, :, 2].max() < -0.9


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_becomes_the_same_rgb(tmp_path, mode):
    """A grey of 128 (white for one bit), whatever it is stored as."""
    value = 255 if mode == "1" else 128
    if mode in {"I;16", "I"}:
        picture = Image.fromarray(np.full((5, 7), value * 257, np.uint16 if mode == "I;16" else np.int32))
    elif mode == "F":
        picture = Image.fromarray(np.full((5, 7), value / 255, np.float32))
    else:
        picture = Image.new("RGB", (7, 5), (value,) * 3)
        picture = picture.quantize() if mode == "P" else picture.convert(mode)
    assert picture.mode == mode
    path = tmp_path / ("a.tif" if mode in {"CMYK", "YCbCr", "I", "F"} else "a.png")
    picture.save(path)
    opened = open_image(path)
    assert opened.mode == "RGB"
    assert opened.size == (7, 5)
    assert np.abs(np.asarray(opened).astype(int) - value).max() <= 2


def test_heic_where_its_reader_is_installed(tmp_path):
    reader = pytest.importorskip("pillow_heif")
    reader.register_heif_opener()
    halves(64, 64).save(tmp_path / "a.heic", quality=90)
    (image,) = load_images(tmp_path, 16)
    assert image[0, :, 2].min() > 0.8
    assert image[2, :, 2].max() < -0.8


def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", "/dev/zero"):
        with pytest.raises(BrokenImage, match="no regular file"):
            open_image(path)


def test_cmyk_jpeg(tmp_path):
    Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK").save(tmp_path / "a.jpg")
    assert np.asarray(open_image(tmp_path / "a.jpg"))[8, 8].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_sixteen_bit_values_are_scaled_and_others_refused(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535, 32896]], np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 1, 255, 128]
    Image.fromarray(np.array([[0, 70000]], np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(
        BrokenImage, match=r"b.tif' cannot be read \(its values go beyond the range 0 to 65535"
    ):
        open_image(tmp_path / "b.tif")
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "c.tif")
    with pytest.raises(BrokenImage, match="range 0 to 1"):
        open_image(tmp_path / "c.tif")


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(open_image(tmp_path / "clear.png")).min() == 255
    Image.new("RGBA", (4, 4), (255, 0, 0, 51)).save(tmp_path / "faint.png")
    assert np.asarray(open_image(tmp_path / "faint.png"))[0, 0].tolist() == [255, 204, 204]
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 255, 0, 9, 9, 9])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert np.asarray(open_image(tmp_path / "palette.png")).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    turns = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}  # PIL transposes that undo each one
    upright = Image.fromarray(np.kron(noise(3, 2), np.ones((16, 16, 1), np.uint8)))
    stored = upright
    for turn in turns.get(orientation, []):
        stored = stored.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    opened = open_image(tmp_path / "a.jpg")
    assert opened.size == upright.size
    assert np.abs(np.asarray(opened).astype(int) - np.asarray(upright)).mean() < 6


def test_broken_exif_does_not_lose_the_picture(tmp_path):
    halves(16, 16).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff garbage")
    assert open_image(tmp_path / "a.jpg").size == (16, 16)


def test_animated_gif_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(tmp_path / "a.gif"))[3, 3].tolist() == [255, 0, 0]


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), (255, 0, 255)).save(tmp_path / "a.png")
    image = load_images(tmp_path / "a.png", 8)[0]
    assert image.shape == (3, 8, 8)
    assert image[:, 4, 4].tolist() == [1, -1, 1]


def test_very_long_picture(tmp_path):
    Image.new("L", (60_000, 1), 255).save(tmp_path / "a.png")
    assert load_images(tmp_path / "a.png", 8).min() == 1


# Files that cannot be read


def broken_files(folder):
    """Path -> what its sentence must say."""
    folder.mkdir()
    paths = {}
    Image.fromarray(noise(200, 200)).save(folder / "whole.jpg")
    data = (folder / "whole.jpg").read_bytes()
    for name, content, words in [
        ("truncated.jpg", data[: len(data) // 2], "truncated"),
        ("head.jpg", data[:20], "cannot be read"),
        ("text.jpg", b"hello", "not a picture in a known format"),
        ("empty.png", b"", "not a picture in a known format"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture in a known format"),
    ]:
        (folder / name).write_bytes(content)
        paths[folder / name] = words
    giant_png(folder / "giant.png", 20_000, 10_000)
    paths[folder / "giant.png"] = "is too large"
    giant_png(folder / "large.png", 10_000, 9_000)
    paths[folder / "large.png"] = r"is too large \(10000 × 9000 pixels\)"
    (folder / "dead.jpg").symlink_to(folder / "gone.jpg")
    paths[folder / "dead.jpg"] = "is a link that leads nowhere"
    return paths


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_each_broken_file_gets_a_sentence(tmp_path):
    for path, words in broken_files(tmp_path / "photos").items():
        with pytest.raises(BrokenImage, match=words) as caught:
            open_image(path, 64)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_broken_files_in_a_folder_are_named_counted_and_skipped_only_if_asked(tmp_path, capsys):
    folder = tmp_path / "photos"
    broken = broken_files(folder)
    with pytest.raises(UserError, match=r"8 of 9 pictures are broken: image '.*skip_broken true"):
        ImageFolder(folder)
    data = ImageFolder(folder, size=8, skip_broken=True)
    assert [path.name for path in data.paths] == ["whole.jpg"]
    told = capsys.readouterr()
    assert told.out == ""
    assert "8 of 9 pictures are broken and left out" in told.err
    assert all(path.name in told.err for path in broken)
    (folder / "whole.jpg").unlink()
    with pytest.raises(UserError, match="8 of 8 pictures are broken"):
        ImageFolder(folder, skip_broken=True)


def test_file_without_permission(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "00.png").chmod(0)
    if os.access(tmp_path / "00.png", os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(
        UserError, match=r"1 of 2 pictures is broken: .*00.png' cannot be read \(Permission denied"
    ):
        ImageFolder(tmp_path)
    (tmp_path / "00.png").chmod(0o600)
    assert len(ImageFolder(tmp_path)) == 2


def test_file_that_the_system_refuses(tmp_path, monkeypatch):
    fill(tmp_path, 1)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(BrokenImage, match=r"00.png' cannot be read \(Permission denied\)"):
        open_image(tmp_path / "00.png")


def test_giant_jpeg_is_decoded_small_in_little_memory(tmp_path):
    Image.new("L", (20_000, 10_000), 200).save(tmp_path / "a.jpg", quality=30)
    code = (
        "import resource, sys; from invariances.data.files import open_image;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "picture = open_image(sys.argv[1], 64);"
        "print(*picture.size, picture.getpixel((9, 9))[0],"
        " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "a.jpg")]
    out = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout
    width, height, value, grown = map(int, out.split())
    assert (width, height) == (2500, 1250)
    assert value == pytest.approx(200, abs=3)
    assert grown < 100_000  # KiB; whole it would be 800 MB
    assert load_images(tmp_path / "a.jpg", 16).shape == (1, 3, 16, 16)
    with pytest.raises(BrokenImage, match=r"a.jpg' is too large \(20000 × 10000 pixels\)"):
        open_image(tmp_path / "a.jpg")


def test_giant_progressive_jpeg_is_refused(tmp_path):
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.jpg", progressive=True)
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", 10_000, 20_000)
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(BrokenImage, match="is too large"):
        open_image(tmp_path / "a.jpg", 64)


def test_png_with_a_text_bomb(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "x" * 50_000_000, zip=True)
    Image.fromarray(noise()).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(BrokenImage, match=r"a.png' cannot be read"):
        open_image(tmp_path / "a.png")


def test_the_limit_is_within_a_gigabyte_of_memory():
    assert MAX_PIXELS * 4 < 2**30


def test_odd_file_names(tmp_path):
    names = [
        "ünï çödé.png",
        "new\nline.png",
        "quo'te\".png",
        "-dash.png",
        " .png",
        os.fsdecode(b"\xff\xfe.png"),
    ]
    for k, name in enumerate(names):
        Image.fromarray(noise(seed=k)).save(tmp_path / name)
    data = ImageFolder(tmp_path, size=8)
    assert sorted(os.path.basename(item["path"]) for item in data) == sorted(names)
    assert len(data.fingerprint()) == 64
    (tmp_path / "bad\nname.png").write_text("x")
    with pytest.raises(UserError, match=r"bad\\nname") as caught:
        ImageFolder(tmp_path, size=8)
    assert "\n" not in str(caught.value)


# Tensors


def test_values_and_crop_follow_the_formula(tmp_path):
    pixels = noise(20, 10)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = torch.from_numpy(pixels[:, 5:15].astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(load_images(tmp_path / "a.png", 10)[0], expected)
    torch.testing.assert_close(to_tensor(open_image(tmp_path / "a.png"), 10), expected)
    torch.testing.assert_close(ImageFolder(tmp_path, size=10)[0]["image"], expected)


def test_squares():
    assert images.center_box(7, 12) == (0, 2, 7, 9)
    assert images.center_box(12, 7) == (2, 0, 9, 7)
    random = np.random.default_rng(0)
    boxes = np.array([images.random_box(100, 60, random) for _ in range(400)])
    sides = boxes[:, 2] - boxes[:, 0]
    assert (boxes[:, 3] - boxes[:, 1] == sides).all()
    assert sides.min() in (48, 49)
    assert sides.max() == 60
    assert boxes[:, :2].min() == 0
    assert boxes[:, 2].max() > 97
    assert boxes[:, 3].max() == 60


def test_resizing_is_antialiased():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    image = to_tensor(Image.fromarray(board.astype(np.uint8)).convert("RGB"), 16)
    assert image.abs().max() < 0.02


def test_eight_bits_round_trip_and_clamp():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, 3)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    beyond = torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    assert to_uint8(beyond)[:, 0, 0, 0].tolist() == [0, 255]


# The data set


def test_items_and_tensor_agree(tmp_path):
    data = ImageFolder(fill(tmp_path), size=8)
    pictures = data.tensor()
    assert pictures.dtype == torch.uint8
    assert torch.equal(from_uint8(pictures), torch.stack([data[k]["image"] for k in range(len(data))]))
    assert data[-1]["index"] == 5
    assert data[2]["path"].endswith("02.png")
    assert {item["label"] for item in data} == {-1}
    with pytest.raises(IndexError):
        data[6]


def test_classes_are_folders_merged_over_several_roots(tmp_path):
    for root, names in (("one", "ab"), ("two", "bc")):
        for name in names:
            fill(tmp_path / root / name, 2)
    data = ImageFolder([tmp_path / "one", tmp_path / "two"], size=8)
    assert data.classes == ["a", "b", "c"]
    assert data.labels == [0, 0, 1, 1, 1, 1, 2, 2]
    fill(tmp_path / "one", 1)
    assert ImageFolder(tmp_path / "one", size=8).classes == []
    assert ImageFolder(tmp_path / "two" / "b", size=8).labels == [-1, -1]
    fill(tmp_path / "three" / "a", 2)
    assert ImageFolder(tmp_path / "three", size=8).classes == []  # one sub-folder is no class


def test_random_views_depend_on_seed_name_and_view_alone(tmp_path):
    for k in range(4):
        tmp_path.joinpath("photos").mkdir(exist_ok=True)
        Image.fromarray(noise(60, 40, seed=k)).save(tmp_path / "photos" / f"{k}.png")
    data = ImageFolder(tmp_path / "photos", size=16, crop="random", views=3)
    assert len(data) == 12
    pictures = data.tensor()
    assert torch.equal(pictures, ImageFolder(tmp_path / "photos", size=16, crop="random", views=3).tensor())
    assert torch.equal(pictures[6:9], data.subset([2]).tensor())
    assert len({pictures[k].numpy().tobytes() for k in range(12)}) == 12
    other = ImageFolder(tmp_path / "photos", size=16, crop="random", views=3, seed=1)
    assert not torch.equal(pictures, other.tensor())
    with pytest.raises(UserError, match="set crop='random'"):
        ImageFolder(tmp_path / "photos", views=2)
    with pytest.raises(UserError, match="'middle' is unknown"):
        ImageFolder(tmp_path / "photos", crop="middle")


@pytest.mark.parametrize("views", [1, 3])
def test_items_at_once_are_the_items_and_each_picture_is_decoded_once(tmp_path, monkeypatch, views):
    for k in range(4):
        Image.fromarray(noise(60, 40, seed=k)).save(tmp_path / f"{k}.png")
    data = ImageFolder(tmp_path, size=16, crop="random" if views > 1 else "center", views=views)
    wanted = [2, 3, 3, 0, -1] if views == 1 else [0, 1, 2, 1, 7, 8, -1]
    one_by_one = [data[index] for index in wanted]
    opened = []
    monkeypatch.setattr(
        images, "open_image", lambda path, size: opened.append(path.name) or open_image(path, size)
    )
    for item, alone in zip(data.__getitems__(wanted), one_by_one, strict=True):
        assert torch.equal(item.pop("image"), alone.pop("image"))
        assert item == alone
    assert sorted(opened) == (
        ["0.png", "2.png", "3.png", "3.png"] if views == 1 else ["0.png", "2.png", "3.png"]
    )
    opened.clear()
    data.tensor()
    assert sorted(opened) == [f"{k}.png" for k in range(4)]
    with pytest.raises(IndexError):
        data.__getitems__([0, len(data)])


def test_random_crops_are_mirrored_half_of_the_time(tmp_path):
    halves(64, 64).save(tmp_path / "a.png")
    data = ImageFolder(tmp_path, size=8, crop="random", views=64)
    red_left = (data.tensor()[:, 4, 0, 0] > 128).sum().item()
    assert 20 < red_left < 44


def test_fingerprint_changes_with_what_images_depend_on(tmp_path):
    folder = fill(tmp_path / "photos")
    prints = [ImageFolder(folder, size=8).fingerprint()]
    assert prints[0] == ImageFolder(folder, size=8).fingerprint()
    assert prints[0] == ImageFolder(folder, size=8, seed=5).fingerprint()
    prints += [
        ImageFolder(folder, size=9).fingerprint(),
        ImageFolder(folder, size=8, crop="random").fingerprint(),
        ImageFolder(folder, size=8, crop="random", seed=1).fingerprint(),
        ImageFolder(folder, size=8, crop="random", views=2).fingerprint(),
        ImageFolder(folder, size=8).subset([0, 1]).fingerprint(),
    ]
    os.utime(folder / "00.png", ns=(1, 1))
    prints.append(ImageFolder(folder, size=8).fingerprint())
    (folder / "00.png").rename(folder / "0.png")
    prints.append(ImageFolder(folder, size=8).fingerprint())
    assert len(set(prints)) == len(prints)


def test_the_check_is_remembered_while_no_file_changes(tmp_path, monkeypatch):
    folder = fill(tmp_path / "photos")
    (folder / "bad.jpg").write_text("x")
    opened = []
    monkeypatch.setattr(
        "invariances.data.images.open_image",
        lambda path, size: opened.append(path.name) or open_image(path, size),
    )
    ImageFolder(folder, skip_broken=True)
    assert len(opened) == 7
    opened.clear()
    ImageFolder(folder, skip_broken=True)
    assert opened == ["bad.jpg"]
    opened.clear()
    os.utime(folder / "00.png", ns=(1, 1))
    ImageFolder(folder, skip_broken=True)
    assert len(opened) == 7


def test_an_unwritable_cache_home_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(ImageFolder(fill(tmp_path / "photos"))) == 6


def test_a_loader_with_workers_reads_the_same(tmp_path):
    data = ImageFolder(fill(tmp_path, 5), size=8)
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2)
    images = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(images, from_uint8(data.tensor()))
