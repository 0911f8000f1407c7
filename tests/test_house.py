"""The street: rooms stand in an order, a file imports only from rooms above its own, and no file has two subjects."""

import ast
from pathlib import Path

import pytest

import invariances

ROOMS = [
    "system",
    "data",
    "flow",
    "autoencoder",
    "report",
    "zoo",
    "representation",
    "features",
    "interpreter",
    "evaluation",
    "experiments",
    "training",
    "recipes",
    "cli",
    "app",
]
PACKAGE = Path(invariances.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem == "interpreter")
MOST_LINES, MOST_OF_A_FUNCTION, MOST_PARAMETERS = 400, 60, 8


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(tree):
    """Modules of this package that a file imports anywhere, and where."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            if node.module == "invariances":
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif (node.module or "").startswith("invariances."):
                yield node.module.removeprefix("invariances."), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("invariances."):
                    yield alias.name.removeprefix("invariances."), node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_walks_back_up_the_street(path):
    room = room_of(path)
    assert room in ROOMS, f"{room} is no room; see CONTRIBUTING.md"
    for module, line in imported(ast.parse(path.read_text(encoding="utf-8"))):
        other = module.split(".")[0]
        if other in ROOMS:
            assert ROOMS.index(other) <= ROOMS.index(room), f"line {line}: {room} imports from {other}"


def test_no_circles_within_a_room():
    graph = {}
    for path in FILES:
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        top = [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ImportFrom)
        ]
        graph[name] = {found for node in top for found, _ in imported(ast.Module([node], []))} - {name}
    done, open_ = set(), []

    def walk(name):
        if name in open_:
            raise AssertionError(f"a circle: {' -> '.join([*open_[open_.index(name) :], name])}")
        if name in done or name not in graph:
            return
        open_.append(name)
        for other in sorted(graph[name]):
            walk(other)
        open_.pop()
        done.add(name)

    for name in sorted(graph):
        walk(name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES, "two subjects in one file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= MOST_OF_A_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_text_is_utf_8_whatever_the_locale(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(each.arg == "encoding" for each in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        modes = [each.value for each in node.args if isinstance(each, ast.Constant)]
        video = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "av"
        text = name == "open" and not video and any(each in ("r", "w", "a", "x") for each in modes)
        if text or name in ("read_text", "write_text"):
            raise AssertionError(f"line {node.lineno}: no encoding")
