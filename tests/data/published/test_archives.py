"""Hostile archives: a sentence each, and nothing is written outside of the data set's folder."""

import io
import os
import stat
import struct
import tarfile
import zipfile

import pytest

from invariances.data.published import awa2, zips
from invariances.data.published.awa2 import AwA2Train
from invariances.data.published.imagenet import ImageNetTrain, ImageNetValidation
from invariances.data.published.root import Root
from invariances.data.published.tars import Tar
from invariances.data.published.zips import Zip
from invariances.system.errors import UserError

FIRST = "n00000001"


def special(name, kind, link="", size=0, body=b""):
    """A tar of one member of another kind."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(body)
        info.devmajor = info.devminor = 1
        tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


HOSTILE = {
    "traversal": (lambda t: t.tar_of({"../../evil.JPEG": b"x"}), "leads out of its folder"),
    "hidden traversal": (lambda t: t.tar_of({f"{FIRST}/../../../evil.JPEG": b"x"}), "leads out"),
    "absolute": (lambda t: t.tar_of({"/tmp/evil.JPEG": b"x"}), "leads out"),
    "backslashes": (lambda t: t.tar_of({"..\\evil.JPEG": b"x"}), "leads out"),
    "new line": (lambda t: t.tar_of({"a\nb.JPEG": b"x"}), "leads out"),
    "long traversal": (
        lambda t: t.tar_of({"../" * 60 + "evil.JPEG": b"x"}, tarfile.GNU_FORMAT),
        "leads out",
    ),
    "pax traversal": (lambda t: t.tar_of({"../" * 60 + "ü.JPEG": b"x"}, tarfile.PAX_FORMAT), "leads out"),
    "symbolic link": (
        lambda t: special(f"{FIRST}_1.JPEG", tarfile.SYMTYPE, "/etc/passwd"),
        "a symbolic link",
    ),
    "hard link": (lambda t: special(f"{FIRST}_1.JPEG", tarfile.LNKTYPE, "/etc/passwd"), "a hard link"),
    "device": (lambda t: special(f"{FIRST}_1.JPEG", tarfile.CHRTYPE), "a device"),
    "block device": (lambda t: special(f"{FIRST}_1.JPEG", tarfile.BLKTYPE), "a device"),
    "pipe": (lambda t: special(f"{FIRST}_1.JPEG", tarfile.FIFOTYPE), "a pipe"),
    "holes": (lambda t: special(f"{FIRST}_1.JPEG", tarfile.GNUTYPE_SPARSE, body=b"x"), "a file with holes"),
    "odd kind": (lambda t: special(f"{FIRST}_1.JPEG", b"Z"), "something odd"),
    "long note": (lambda t: special("x", b"L", body=b"a" * 70_000) + b"\0" * 1024, "a note of 70,000 bytes"),
    "another name": (lambda t: t.tar_of({"evil.sh": b"x"}), "no picture of"),
    "claims more than there is": (
        lambda t: t.tar_of({f"{FIRST}_1.JPEG": b"x" * 600})[:1024] + b"\0" * 0,
        "not fetched whole",
    ),
}


def twice(name):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for body in (b"one", b"two"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def outside(tmp_path):
    return {
        str(path) for path in tmp_path.rglob("*") if "root" not in path.parts and "sources" not in path.parts
    }


@pytest.mark.parametrize("case", [*HOSTILE, "twice"])
@pytest.mark.parametrize("depth", ["outer", "inner"])
def test_hostile_tars(tiny, tmp_path, case, depth):
    made, words = HOSTILE.get(case, (lambda t: twice(f"{FIRST}_1.JPEG"), "JPEG' twice, which"))
    data = made(tiny)
    if depth == "inner":
        data = tiny.tar_of({f"{FIRST}.tar": data})
    elif case in ("another name", "twice"):
        data = twice(f"{FIRST}.tar") if case == "twice" else data
        words = (
            "twice|not fetched whole|tar per synset|no end|damaged" if case == "twice" else "a tar per synset"
        )
    (tmp_path / "sources" / "evil.tar").write_bytes(data)
    before = outside(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        ImageNetTrain.prepare(Root(tmp_path / "root"), tmp_path / "sources" / "evil.tar", progress=False)
    assert "\n" not in str(caught.value)
    assert outside(tmp_path) == before
    assert not (tmp_path / "root" / ".ready").exists()
    assert not any(path.is_symlink() for path in (tmp_path / "root").rglob("*"))
    assert not os.path.exists("/tmp/evil.JPEG")


def test_a_validation_archive_with_unknown_names(tiny, tmp_path):
    (tmp_path / "sources" / "evil.tar").write_bytes(tiny.tar_of({"ILSVRC2012_val_99999999.JPEG": b"x"}))
    with pytest.raises(UserError, match=r"which validation_synset.txt does not name"):
        ImageNetValidation.prepare(Root(tmp_path / "root"), tmp_path / "sources" / "evil.tar", progress=False)


@pytest.mark.parametrize("line", ["../x.JPEG n00000001", "a.JPEG ../n1", "a.JPEG", "a.JPEG n00000001/.."])
def test_a_validation_list_with_odd_lines(tiny, tmp_path, line):
    (tiny.sources / "validation_synset.txt").write_text(line + "\n")
    with pytest.raises(UserError, match="was expected; delete it"):
        ImageNetValidation.prepare(
            Root(tmp_path / "root"), tiny.sources / ImageNetValidation.archive, progress=False
        )


def test_names_of_every_tar_format_are_read(tmp_path, tiny):
    names = ["a" * 150 + ".JPEG", "short.JPEG", "folder/inside.JPEG"]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        used = names[1:] if form == tarfile.USTAR_FORMAT else names
        (tmp_path / "a.tar").write_bytes(tiny.tar_of({name: name.encode() for name in used}, form))
        tar = Tar.open(tmp_path / "a.tar")
        assert {member.name: tar.read(member) for member in tar.members()} == {n: n.encode() for n in used}
        tar.close()


def test_bytes_anywhere_changed_or_cut_are_a_sentence_or_harmless(tiny, tmp_path):
    import random

    random = random.Random(0)
    whole = tiny.tar.read_bytes()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(random.choice([1, 3])):
            data[random.randrange(len(data))] = random.randrange(256)
        if random.random() < 0.3:
            del data[random.randrange(len(data)) :]
        (tmp_path / "bad.tar").write_bytes(data)
        try:
            tar = Tar.open(tmp_path / "bad.tar")
            for member in tar.members():
                for inner in tar.inner(member).members():
                    tar.inner(member).read(inner)
        except UserError:
            pass


# Zips


def zip_of(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def refused(tiny, tmp_path, path, words):
    before = outside(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        AwA2Train.prepare(Root(tmp_path / "root"), path, progress=False)
    assert "\n" not in str(caught.value)
    assert outside(tmp_path) == before
    assert not (tmp_path / "root" / ".ready").exists()


INSIDE = f"{awa2.PICTURES}/zebra"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil.jpg", "leads out"),
        (f"{INSIDE}/../../../../evil.jpg", "leads out"),
        ("/tmp/evil.jpg", "leads out"),
        ("C:/evil.jpg", "leads out"),
        (f"{awa2.PICTURES}/evil.jpg", "CLASS/NAME.jpg was expected"),
        (f"{INSIDE}/deep/evil.jpg", "CLASS/NAME.jpg was expected"),
    ],
)
def test_names_in_zips(tiny, tmp_path, name, words):
    refused(tiny, tmp_path, zip_of(tiny.sources / "evil.zip", {**tiny.awa2, name: b"x"}), words)


def test_links_in_zips(tiny, tmp_path):
    path = tiny.sources / "evil.zip"
    for mode in (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO):
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo(f"{INSIDE}/zebra_1.jpg")
            info.create_system, info.external_attr = 3, (mode | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
        refused(tiny, tmp_path, path, "a link or device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_twice_in_zips(tiny, tmp_path):
    path = tiny.sources / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for body in ("one", "two"):
            archive.writestr(f"{INSIDE}/zebra_1.jpg", body)
    refused(tiny, tmp_path, path, "jpg' twice, which")


def test_bombs_in_zips(tiny, tmp_path, monkeypatch):
    path = tiny.sources / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{INSIDE}/zebra_1.jpg", bytes(20_000_000))
    refused(tiny, tmp_path, path, "claims to hold 20,000,000 bytes")
    monkeypatch.setattr(zips, "LARGEST", 1000)
    refused(
        tiny, tmp_path, zip_of(path, {f"{INSIDE}/zebra_1.jpg": bytes(1001)}), "claims to hold 1,001 bytes"
    )


def test_a_zip_that_holds_more_than_it_says(tiny, tmp_path):
    path = zip_of(tiny.sources / "liar.zip", {f"{INSIDE}/zebra_1.jpg": b"x" * 5000})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 100)
    path.write_bytes(data)
    refused(tiny, tmp_path, path, "more of|damaged|less of|holds 0|holds 1")


def test_a_zip_with_overlapping_files(tiny, tmp_path):
    path = zip_of(tiny.sources / "overlap.zip", {f"{INSIDE}/zebra_{k}.jpg": b"x" * 5000 for k in range(9)})
    data = bytearray(path.read_bytes())
    at = 0
    while (at := data.find(b"PK\x01\x02", at + 1)) > 0:
        data[at + 20 : at + 24] = struct.pack("<I", 40_000)
    path.write_bytes(data)
    refused(tiny, tmp_path, path, "claims to hold")


def test_damaged_zips(tiny, tmp_path):
    import random

    random = random.Random(0)
    whole = (tiny.sources / awa2.ARCHIVE).read_bytes()
    for _ in range(80):
        data = bytearray(whole)
        data[random.randrange(len(data))] ^= 1 + random.randrange(255)
        if random.random() < 0.3:
            del data[random.randrange(len(data)) :]
        (tmp_path / "bad.zip").write_bytes(data)
        try:
            files = Zip(tmp_path / "bad.zip")
            for name in files.files:
                b"".join(files.parts(name))
            files.close()
        except UserError:
            pass
