"""What the demos' commands share: an interpreter by name, pictures, and a picture with a JSON file beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from invariances.interpreter import Interpreter


def interpreter_of(model: str, layer: str | None, network: str | None, device: str) -> Interpreter:
    """The interpreter of a run's folder or of a name, on a device."""
    from invariances.interpreter import Interpreter
    from invariances.system.machine import accelerator

    home = accelerator(device)
    return Interpreter.load(model, network, layer=layer).to(home)


def pictures_of(images: Sequence[str], size: int) -> Tensor:
    """The pictures of files and folders, (N, 3, size, size)."""
    import torch

    from invariances.data.images import load_images

    return torch.cat([load_images(each, size) for each in images])


def class_number(interpreter: Interpreter, name: str) -> int:
    """The number of a class that is given by name or number.

    Raises:
        UserError: There is none; names the nearest.
    """
    from invariances.system.errors import UserError, nearest

    names = interpreter.representation.class_names or []
    if name in names:
        return names.index(name)
    if name.isdecimal() and len(name) < 10:
        return int(name)
    known = nearest(name, names) if names else "numbers only"
    raise UserError(f"{interpreter.representation.network_name} knows no class {name!r}; nearest: {known}")


def written(output: str, images: Tensor, numbers: Any, labels: tuple[Any, Any] = (None, None)) -> None:
    """Writes a grid to `output` and the numbers beside it, and prints both paths."""
    from invariances.report.grids import save_grid

    print(save_grid(images, output, *labels, scale=max(1, 128 // images.shape[-1])))
    print(write_json(output, numbers))


def write_json(output: str, numbers: Any) -> Path:
    """The path of the JSON file that belongs to `output`."""
    from invariances.system.files import atomic

    path = Path(output).with_suffix(".json")
    with atomic(path) as draft:
        draft.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
