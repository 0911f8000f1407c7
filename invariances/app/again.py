"""The Python that makes a screen again."""

from __future__ import annotations

_IMPORTS = {
    "torch.": "import torch",
    "Clip": "from invariances.data.clips import Clip, ClipWriter, DrawnClip",
    "load_images(": "from invariances.data.images import load_images",
    "Shapes(": "from invariances.data.shapes import Shapes",
    "attack(": "from invariances.experiments.attack import attack",
    "layer_views(": "from invariances.experiments.layers import layer_views",
    "mix(": "from invariances.experiments.mixing import mix",
    "made_pictures(": "from invariances.experiments.samples import made_pictures",
    "texture_bias(": "from invariances.experiments.texture_bias import texture_bias",
    "translated(": "from invariances.experiments.video import translated",
    "Interpreter.": "from invariances.interpreter import Interpreter",
    "examples(": "from invariances.zoo.interpreters import examples",
    "seeded(": "from invariances.system.seeds import seeded",
}


def python(*lines: str) -> str:
    """The lines, below the imports of what they name."""
    body = "\n".join(lines)
    imports = [line for name, line in _IMPORTS.items() if name in body]
    return "\n".join([*imports, "", body])
