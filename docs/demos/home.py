"""The pictures of the app's first page: `python docs/demos/home.py` writes invariances/app/home.png."""

import torch
from PIL import Image
from torch import Tensor

from invariances import Interpreter
from invariances.app.home import CARDS, PICTURES
from invariances.data.arrays import to_uint8
from invariances.data.clips import DrawnClip
from invariances.data.shapes import Shapes
from invariances.experiments.attack import attack
from invariances.experiments.layers import layer_views
from invariances.experiments.mixing import mix
from invariances.experiments.texture_bias import texture_bias
from invariances.experiments.video import translated
from invariances.system.seeds import seeded


def parts() -> dict[str, Tensor]:
    """By demo, two rows of three pictures, (2, 3, 3, 64, 64)."""
    drawn = Shapes(24, seed=5).images(range(24))
    shape, texture = (Interpreter.load(name, layer="pool") for name in ("shapes_shape", "shapes_texture"))
    attacked = attack(shape, drawn[1:2], "pgd", 0.1, n=2, generator=seeded("attack", 0, 0))
    upper = [attacked.original[0], attacked.attacked[0], attacked.seen[0]]
    lower = [attacked.samples[0, 0], *attacked.attacked_samples[0]]
    layers = [Interpreter.load("shapes_shape", layer=layer) for layer in ("stage2", "logits")]
    views = layer_views(layers, drawn[2], 3, generator=seeded("samples", 0))
    bias = texture_bias(shape, texture, drawn[7:8], 3, generator=seeded("texture", 0, 0))
    (moved,) = translated(shape, drawn[9], list(DrawnClip(frames=96))[8:96:32])
    return {
        "attacks": torch.stack([torch.stack(upper), torch.stack(lower)]),
        "layers": torch.stack([each.samples for each in views]),
        "texture": torch.cat(bias.samples),
        "video": torch.stack([moved.frames, moved.results]),
        "mixing": mix(shape, drawn[[4, 18, 11]]).mixed[:2],
    }


def main() -> None:
    """Writes them below each other, in the order of the cards."""
    made = parts()
    lines = [torch.cat([torch.cat([*row], dim=2) for row in made[name]], dim=1) for name in CARDS]
    Image.fromarray(to_uint8(torch.cat(lines, dim=1)[None])[0].numpy()).save(PICTURES, optimize=True)


if __name__ == "__main__":
    main()
