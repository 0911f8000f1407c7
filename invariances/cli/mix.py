"""`invariances mix`: the content of each picture with the invariances of each other."""

from __future__ import annotations


def mix(
    model: str,
    images: list[str],
    layer: str | None = None,
    network: str | None = None,
    device: str = "auto",
    output: str = "mix.png",
) -> None:
    """Mix every picture's content with every picture's invariances.

    Writes one grid: row i has the content that the layer knows of picture i, column j what it ignores of picture j. The
    JSON file beside it says how well the content was kept (cosine of the representations, 1 is all).

    Args:
        model: A run's folder, or a name that `invariances models list` shows.
        images: Picture files, or folders of them; 16 at most.
        layer: Which layer of a name.
        network: The network's name or weights file, where that has moved since training.
        device: auto, cpu, cuda or mps.
        output: Picture to write; the numbers go beside it.

    Example:
        invariances mix shapes_texture heart.png arrow.png dome.png --layer logits
    """
    from invariances.cli.results import interpreter_of, pictures_of, written
    from invariances.experiments.mixing import mix as run

    interpreter = interpreter_of(model, layer, network, device)
    found = run(interpreter, pictures_of(images, interpreter.image_size))
    cut = interpreter.representation
    written(output, found.grid(), found.numbers(cut.network_name, cut.layer))
