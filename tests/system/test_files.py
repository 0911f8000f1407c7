"""Whether the network may be used is read in one place."""

import re
from pathlib import Path

import pytest
import torch

import invariances
from invariances.system.errors import UserError
from invariances.system.files import LOCK, atomic, check_writable, leaving_nothing, offline


@pytest.mark.parametrize("word", ["", "0", "false", "False", "no", "NO", "off", " 0 "])
def test_words_that_leave_the_network_open(monkeypatch, word):
    monkeypatch.setenv("INVARIANCES_OFFLINE", word)
    assert not offline()


@pytest.mark.parametrize("word", ["1", "true", "yes", "on", "2", "offline"])
def test_words_that_forbid_the_network(monkeypatch, word):
    monkeypatch.setenv("INVARIANCES_OFFLINE", word)
    assert offline()


def test_nothing_else_reads_the_variable():
    package = Path(invariances.__file__).parent
    reading = re.compile(r"(environ|getenv)[^\n]*INVARIANCES_OFFLINE")
    readers = [
        path.name for path in package.rglob("*.py") if reading.search(path.read_text(encoding="utf-8"))
    ]
    assert readers == ["files.py"]


def save(path):
    """Onto a disk that is full."""
    with atomic(path) as draft:
        draft.symlink_to("/dev/full")
        with draft.open("wb") as file:
            torch.save(torch.zeros(10**6), file)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_a_sentence_though_torch_calls_it_otherwise(tmp_path):
    path = tmp_path / "weights.ckpt"
    path.write_text("before")
    with pytest.raises(UserError, match=r"weights\.ckpt' is full; free some space"):
        save(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def failing(*steps):
    with leaving_nothing():
        for step in steps:
            step()
        raise KeyboardInterrupt


def test_what_was_made_goes_again_where_nothing_is_in_it(tmp_path):
    wanted = tmp_path / "runs" / "a" / "b"
    with pytest.raises(KeyboardInterrupt):
        failing(lambda: check_writable(wanted), (wanted / LOCK).touch)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_or_holds_something_stays(tmp_path):
    (tmp_path / "users").mkdir()
    with pytest.raises(KeyboardInterrupt):
        failing(
            lambda: check_writable(tmp_path / "users"),
            lambda: check_writable(tmp_path / "runs" / "a"),
            lambda: check_writable(tmp_path / "runs" / "b"),
            (tmp_path / "runs" / "b" / "config.yaml").touch,
        )
    left = sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*"))
    assert left == ["runs", "runs/b", "runs/b/config.yaml", "users"]


def test_what_went_well_stays(tmp_path):
    with leaving_nothing():
        check_writable(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        failing(lambda: check_writable(tmp_path / "other"))
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_a_draft_that_cannot_be_begun_is_told_by_its_files_name():
    def begin():
        with atomic("/dev/fd/picture.png") as draft:
            draft.write_bytes(b"x")

    with pytest.raises(OSError, match=r"'/dev/fd/picture\.png'"):
        begin()


def test_a_folder_that_cannot_be_looked_into_is_told_by_the_files_name(tmp_path, monkeypatch):
    def refused(self, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refused)
    path = tmp_path / "picture.png"

    def begin():
        with atomic(path) as draft:
            raise PermissionError(13, "Permission denied", str(draft))

    with pytest.raises(PermissionError, match=r"/picture\.png'"):
        begin()
