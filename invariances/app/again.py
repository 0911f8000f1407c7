"""The Python and the command that make a screen again."""

from __future__ import annotations

import shlex

_IMPORTS = {
    "torch.": "import torch",
    "to_uint8(": "from invariances.data.arrays import to_uint8",
    "Clip": "from invariances.data.clips import Clip, ClipWriter, DrawnClip",
    "load_images(": "from invariances.data.given import load_images",
    "Shapes(": "from invariances.data.shapes import Shapes",
    "attack(": "from invariances.experiments.attack import attack",
    "layer_views(": "from invariances.experiments.layers import layer_views",
    "mix(": "from invariances.experiments.mixing import mix",
    "made_pictures(": "from invariances.experiments.samples import made_pictures",
    "texture_bias(": "from invariances.experiments.texture_bias import texture_bias",
    "translated(": "from invariances.experiments.video import about, translated",
    "Interpreter.": "from invariances.interpreter import Interpreter",
    "save_grid(": "from invariances.report.grids import save_grid",
    "seeded(": "from invariances.system.seeds import seeded",
    "examples(": "from invariances.zoo.interpreters import examples",
    "layers_of(": "from invariances.zoo.interpreters import layers_of",
    "reader_for(": "from invariances.zoo.readers import reader_for",
}


def python(*lines: str) -> str:
    """The lines, below the imports of what they name."""
    body = "\n".join(lines)
    imports = [line for name, line in _IMPORTS.items() if name in body]
    return "\n".join([*imports, "", body])


def shell(*words: object) -> str:
    """A command of `invariances`, its words quoted where a shell needs it."""
    return shlex.join(["invariances", *map(str, words)])
