"""What a page shows as Python and as a command makes the page's numbers."""

import ast
import contextlib
import io
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from invariances.app import figures
from invariances.app.again import shell
from invariances.cli.main import main
from invariances.data.arrays import to_uint8

testing = pytest.importorskip("streamlit.testing.v1")

PAGES = {
    "attacks": {"attack": "PGD", "epsilon": "0.1", "target": "heart", "seed": "3", "picture": "drawn-7"},
    "layers": {"samples": "3", "temperature": "0.5", "seed": "4", "picture": "custom:more/a.png"},
    "texture_bias": {"samples": "3", "seed": "2", "cut": "logits"},
    "mixing": {"pictures": ["drawn-3", "drawn-12", "custom:b.png"]},
    "video": {},
}


@pytest.fixture
def screen(script, place, monkeypatch):
    """What a page gives to its footer: numbers, and how to make them again."""
    from invariances.zoo import registry

    monkeypatch.chdir(place)
    monkeypatch.setattr(registry, "registry", registry.registry)
    shown = []
    monkeypatch.setattr(figures, "footer", lambda *given: shown.append(given))

    def visit(name, own=None):
        path = script.with_name(f"{name}_again.py")
        head = script.read_text(encoding="utf-8").partition("\nfrom invariances.app")[0]
        path.write_text(f"{head}\nfrom invariances.app.{name} import page\npage()\n", encoding="utf-8")
        app = testing.AppTest.from_file(str(path), default_timeout=120)
        for key, value in PAGES[name].items():
            app.query_params[key] = value
        if own is not None:
            app.session_state["yours"] = {"yours-0": ("mine", own)}
            app.query_params["picture"] = "yours-0"
        app.run()
        if name == "video":
            app.button(key="translate").click().run()
        assert not app.exception
        assert not app.error
        _, _, numbers, again = shown[-1]
        for file, image in again.files.items():
            Image.fromarray(to_uint8(image[None])[0].numpy()).save(place / file)
        return numbers, again

    return visit


def told_by_python(code):
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        exec(code, {})
    return [ast.literal_eval(re.search(r"[\[{].*", line)[0]) for line in told.getvalue().splitlines()]


def told_by_command(command, place):
    files = []
    for line in command.splitlines():
        words = shlex.split(line)
        assert words[0] == "invariances"
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            assert main(words[1:]) == 0
        files.append(told.getvalue().split()[-1])
    assert len(set(files)) == len(files), "no result is written over by the next"
    return [json.loads((place / each).read_text(encoding="utf-8")) for each in files]


def close(one, two):
    """The same, but for rounding: the command computes several pictures at once."""
    if isinstance(one, dict):
        assert list(one) == list(two)
        close(list(one.values()), list(two.values()))
    elif isinstance(one, list):
        assert len(one) == len(two)
        for a, b in zip(one, two):
            close(a, b)
    else:
        assert one == (pytest.approx(two, abs=1e-6) if isinstance(two, float) else two)


def rows(numbers):
    return [each.get("pictures", each.get("kept", each)) for each in numbers]


@pytest.mark.parametrize("name", list(PAGES))
def test_python_and_command_make_the_pages_numbers(screen, place, name):
    if name == "video":
        pytest.importorskip("av", reason="videos need PyAV: pip install 'invariances[app]'")
    numbers, again = screen(name)
    numbers = json.loads(json.dumps(numbers if isinstance(numbers, list) else [numbers]))
    made = told_by_python(again.code)
    close([[each] for each in made] if name == "layers" else made, rows(numbers))
    written = told_by_command(again.command, place)
    if name == "layers":  # the command has no other pictures to compare with
        for each in numbers:
            (row,) = each["pictures"]
            del row["cosine_of_others"], row["variance_open"]
    close(written, numbers)


def test_an_upload_is_saved_as_the_page_sees_it(screen, place):
    own = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    numbers, again = screen("attacks", own)
    assert list(again.files) == ["yours_1.png"]
    close(told_by_command(again.command, place), [json.loads(json.dumps(numbers))])


def test_a_command_keeps_names_whole():
    assert shlex.split(shell("sample", "a net", "data/custom/it's a cat.png", "--n", 3))[2:4] == [
        "a net",
        "data/custom/it's a cat.png",
    ]
