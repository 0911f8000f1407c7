"""The tutorial's commands, in order, on tiny photos; steps are cut down, nothing else."""

import re
import shlex
from pathlib import Path

import pytest

from invariances.cli.main import main
from invariances.data.images import to_uint8
from invariances.data.shapes import Shapes

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
SHORT = {
    "fit-autoencoder": [
        "--steps",
        "2",
        "--width",
        "4",
        "--max_width",
        "8",
        "--latent_dim",
        "8",
        "--batch_size",
        "4",
    ],
    "fit": ["--steps", "3", "--batch_size", "4", "--flow.blocks", "1", "--device", "cpu"],
    "evaluate": ["--n", "2"],
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    for index, image in enumerate(to_uint8(Shapes(24).images(range(24))).numpy()):
        Image.fromarray(image).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path


def test_the_commands_of_the_tutorial_work_one_after_the_other(here):
    commands = [
        line for block in blocks("sh") for line in block.splitlines() if line.startswith("invariances ")
    ]
    assert [shlex.split(each)[1] for each in commands] == [
        "layers",
        "fit-autoencoder",
        "fit",
        "evaluate",
        "sample",
        "sample",
    ]
    for command in commands:
        words = shlex.split(command)[1:]
        assert main([*words, *SHORT.get(words[0], [])]) == 0, command
    (code,) = blocks("python")
    exec(compile(code, "tutorial", "exec"), {})
    assert (here / "samples.png").stat().st_size > 1000
