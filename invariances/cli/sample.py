"""`invariances sample`: pictures that a layer cannot tell from yours."""

from __future__ import annotations


def sample(
    model: str,
    images: list[str],
    layer: str | None = None,
    n: int = 8,
    temperature: float = 1.0,
    diverse: bool = False,
    refine: int = 0,
    seed: int = 0,
    network: str | None = None,
    device: str = "auto",
    output: str | None = None,
) -> None:
    """Pictures that the layer cannot tell from yours: what they share it knows, what varies it ignores.

    Writes one grid, a row per picture: the picture, its reconstruction, and the samples. The JSON file beside it says
    how well each row agrees with its picture at the layer (cosine of the representations, 1 is all) and in its class.

    Args:
        model: A run's folder, or a name that `invariances models list` shows.
        images: Picture files, or folders of them.
        layer: Which layer of a name.
        n: Samples per picture.
        temperature: 1 for true samples; lower shows less variety.
        diverse: Of eight times as many samples those that differ most, which show how far the invariance reaches.
        refine: Gradient steps that bring each sample nearer to what the layer says; the results are no fair samples.
        seed: Makes them repeat.
        network: The network's name or weights file, where that has moved since training.
        device: auto, cpu, cuda or mps.
        output: Where to write; samples.png in the run's folder, or here, by default.

    Example:
        invariances sample runs/resnet50_layer4 dog.jpg cat.jpg --n 6
        invariances sample shapes_shape heart.png --layer pool
    """
    from pathlib import Path

    import torch

    from invariances.cli.results import interpreter_of, pictures_of, written
    from invariances.experiments.layers import told_by
    from invariances.experiments.samples import record
    from invariances.system.seeds import seeded

    interpreter = interpreter_of(model, layer, network, device)
    pictures = pictures_of(images, interpreter.image_size)
    generator = seeded("samples", seed)
    samples = interpreter.sample(pictures, n, temperature, generator, diverse=diverse, refine=refine).cpu()
    tiles, names = [pictures], ["picture"]
    rebuilt = interpreter.reconstruct(pictures).cpu() if interpreter.encodes else None
    if rebuilt is not None:
        tiles, names = [*tiles, rebuilt], [*names, "autoencoder"]
    rows = torch.stack([*tiles, *samples.unbind(1)], dim=1)
    place = Path(model) / "samples.png" if Path(model).is_dir() else Path("samples.png")
    names += ["refined" if refine else "sample"] * n
    asked = {"n": n, "temperature": temperature, "diverse": diverse, "refine": refine, "seed": seed}
    cut = interpreter.representation
    told = told_by(interpreter, pictures, samples, rebuilt)
    numbers = record(cut.network_name, cut.layer, told, **asked)
    written(str(place if output is None else output), rows, numbers, (None, names))
