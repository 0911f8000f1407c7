"""Whether the network may be used is read in one place."""

import re
from pathlib import Path

import pytest

import invariances
from invariances.system.files import offline


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
