"""The README's picture, from the runs that `invariances quickstart` leaves behind.

python examples/front_picture.py quickstart/runs docs/front.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from invariances.data import Shapes
from invariances.interpreter import Interpreter
from invariances.report.grids import save_grid

LAYERS = ["stage2", "stage3", "pool", "softmax"]
SHOWN = [1, 4, 6, 9, 12]


def main(runs: Path, output: Path) -> None:
    """Rows: pictures, their reconstruction, and two samples per layer."""
    interpreters = [Interpreter.load(runs / f"shapes_shape_{layer}") for layer in LAYERS]
    images = Shapes(50, seed=11).images(torch.tensor(SHOWN))
    columns, names = [images, interpreters[0].reconstruct(images).cpu()], ["picture", "decoded"]
    for layer, interpreter in zip(LAYERS, interpreters):
        samples = interpreter.sample(images, 2, generator=torch.Generator().manual_seed(3))
        columns += samples.cpu().unbind(1)
        names += [layer, ""]
    print(save_grid(torch.stack(columns, dim=1), output, column_labels=names))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
