"""`invariances sample`: pictures that a layer cannot tell from yours."""

from __future__ import annotations


def sample(
    folder: str,
    images: list[str],
    n: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    network: str | None = None,
    device: str = "auto",
    output: str | None = None,
) -> None:
    """Pictures that the layer cannot tell from yours: what they share it knows, what varies it ignores.

    Writes one grid, a row per picture: the picture, its reconstruction, and the samples. Prints its path.

    Args:
        folder: A run's folder.
        images: Picture files, or folders of them.
        n: Samples per picture.
        temperature: 1 for true samples; lower shows less variety.
        seed: Makes them repeat.
        network: The network's name or weights file, where that has moved since training.
        device: auto, cpu, cuda or mps.
        output: Where to write; samples.png in the run's folder by default.

    Example:
        invariances sample runs/resnet50_layer4 dog.jpg cat.jpg --n 6
    """
    from pathlib import Path

    import torch

    from invariances.data.images import load_images
    from invariances.interpreter import Interpreter
    from invariances.report.grids import save_grid
    from invariances.system.machine import accelerator
    from invariances.system.seeds import seeded

    interpreter = Interpreter.load(folder, network).to(accelerator(device))
    pictures = torch.cat([load_images(each, interpreter.image_size) for each in images])
    samples = interpreter.sample(pictures, n, temperature, seeded("samples", seed))
    rows = torch.stack([pictures, interpreter.reconstruct(pictures).cpu(), *samples.cpu().unbind(1)], dim=1)
    names = ["picture", "autoencoder", *["sample"] * n]
    print(save_grid(rows, output or Path(folder) / "samples.png", column_labels=names))
