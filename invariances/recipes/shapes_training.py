"""A classifier of drawn shapes, whose colour is a nuisance, at some moments of its training.

python -m invariances.recipes.shapes_training checkpoints
invariances profile shapes_shape --checkpoints 'checkpoints/*.safetensors' --layers stage3 logits
"""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import torch

from invariances.data.shapes import Shapes
from invariances.recipes.shapes_models import CLASSIFIERS, ENDLESS, TEST, TEST_SEED
from invariances.system.files import check_writable
from invariances.training.classifier import Lesson, accuracy, train_classifier
from invariances.zoo.small_resnet import SmallResNet, save_classifier

MOMENTS = (0, 50, 150, 500)
"""Steps; `shapes_shape` is the last of them."""


def build_checkpoints(output: str | Path, moments: tuple[int, ...] = MOMENTS) -> list[Path]:
    """Trains the shipped `shapes_shape` again and keeps it at some moments, with its accuracy.

    Args:
        output: Folder to write `step_N.safetensors` to.
        moments: Steps, the last of them that of the end.
    """
    folder = Path(output)
    check_writable(folder)
    world, _ = CLASSIFIERS["shapes_shape"]
    test = Shapes(TEST, seed=TEST_SEED, **world)
    written = []

    def keep(step: int, network: SmallResNet) -> None:
        if step in moments:
            one = deepcopy(network).to(memory_format=torch.contiguous_format).eval()
            path = folder / f"step_{step}.safetensors"
            found = accuracy(one, test, TEST)
            print(f"step {step}: accuracy {found:.3f}", file=sys.stderr)
            save_classifier(one, path, accuracy=found)
            written.append(path)

    train_classifier(Shapes(ENDLESS, seed=1, **world), lesson=Lesson(moments[-1], keep=keep))
    return written


if __name__ == "__main__":
    build_checkpoints(sys.argv[1] if len(sys.argv) > 1 else "checkpoints")
