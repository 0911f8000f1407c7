"""`invariances texture-bias`: which of shape and texture do two networks keep?"""

from __future__ import annotations


def texture_bias(
    first: str,
    second: str,
    images: list[str],
    layer: str | None = None,
    n: int = 6,
    temperature: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    output: str = "texture_bias.png",
) -> None:
    """Show samples of two networks for the same pictures, with the same invariances.

    Writes one grid, two rows per picture: the picture, then samples of the first network, and below of the second. The
    JSON file beside it has the share of shape and texture that each keeps, where the pictures are drawn ones.

    Args:
        first: A run's folder, or a name that `invariances models list` shows.
        second: The other network's.
        images: Picture files, or folders of them.
        layer: Which layer of the names.
        n: Samples of each network per picture.
        temperature: 1 for true samples; lower shows less variety.
        seed: Makes them repeat.
        device: auto, cpu, cuda or mps.
        output: Picture to write; the numbers go beside it.

    Example:
        invariances texture-bias shapes_shape shapes_texture cue.png --layer logits
        invariances texture-bias cinn_resnet_avgpool cinn_stylizedresnet_avgpool stylecat1.png
    """
    import torch
    from tqdm import tqdm

    from invariances.cli.results import interpreter_of, pictures_of, written
    from invariances.experiments.texture_bias import compared
    from invariances.experiments.texture_bias import texture_bias as run
    from invariances.system.seeds import seeded
    from invariances.zoo.readers import reader_for

    one, two = (interpreter_of(each, layer, None, device) for each in (first, second))
    reader = reader_for(one.representation.network_name)
    pictures = pictures_of(images, one.image_size)
    rows, labels, numbers = [], [], []
    for number, picture in enumerate(tqdm(pictures, desc="sampling", unit="picture", delay=2)):
        found = run(one, two, picture[None], n, temperature, seeded("texture", seed, number), reader)
        rows += [torch.cat([found.pictures, each[0]]) for each in found.samples]
        labels += [one.representation.network_name, two.representation.network_name]
        numbers += found.numbers()
    cuts = [each.representation for each in (one, two)]
    asked = {"n": n, "temperature": temperature, "seed": seed}
    told = compared([(each.network_name, each.layer) for each in cuts], numbers, **asked)
    written(output, torch.stack(rows), told, (labels, ["picture", *["sample"] * n]))
