"""YAML files of settings, read so that no file can hang or crash a command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from invariances.system.errors import UserError

MOST_BYTES = 1_000_000


class _Plain(yaml.SafeLoader):
    """Without aliases, by which a few lines can stand for more values than memory holds, and without keys set twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("it has aliases (*name), which settings do without")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1} sets {key.value!r} a second time")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The values in a YAML file.

    Raises:
        UserError: It is missing, no regular file, too large, not UTF-8, not YAML, has aliases, or sets a key twice.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"the config file {str(path)!r} does not exist")
    if not path.is_file():
        raise UserError(f"the config file {str(path)!r} is no regular file")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"the config file {str(path)!r} has over {MOST_BYTES:,} bytes, too many for settings")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Plain)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"the config file {str(path)!r} is not valid YAML: {' '.join(str(error).split())[:200]}"
        ) from None
