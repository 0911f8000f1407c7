"""Files of settings: what could be meant in two ways is refused."""

import pytest

from invariances.system.errors import UserError
from invariances.system.yaml_file import read_yaml


@pytest.mark.parametrize(
    ("text", "line"), [("a: 1\nb: 2\na: 3\n", 3), ("b:\n  c: 1\n  c: 1\n", 3), ("{a: 1, a: 1}", 1)]
)
def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path, text, line):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"not valid YAML: line {line} sets '[ac]' a second time"):
        read_yaml(tmp_path / "a.yaml")


def test_keys_of_other_sections_may_be_alike(tmp_path):
    (tmp_path / "a.yaml").write_bytes("\ufeffa: {c: 1}\r\nb: {c: ü}\r\n".encode())
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"c": 1}, "b": {"c": "ü"}}
