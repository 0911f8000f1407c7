"""`invariances attack`: what a layer makes of a change that nobody sees."""

from __future__ import annotations

from typing import Literal


def attack(
    model: str,
    images: list[str],
    layer: str | None = None,
    method: Literal["fgsm", "pgd"] = "fgsm",
    epsilon: float = 0.02,
    target: str | None = None,
    n: int = 3,
    seed: int = 0,
    network: str | None = None,
    device: str = "auto",
    output: str = "attack.png",
) -> None:
    """Attack pictures, and show what the layer makes of them beside noise of equal strength.

    Writes one grid, a row per picture: the picture, the attacked one, its own reconstruction, what the network sees
    (the picture's invariances with the attacked representation), the same for the noise, and n pairs of samples that
    share their invariances. The JSON file beside it has the predictions and how far each layer moved.

    Args:
        model: A run's folder, or a name that `invariances models list` shows.
        images: Picture files, or folders of them.
        layer: Which layer of a name.
        method: fgsm, one step; or pgd, twenty.
        epsilon: Largest change of a value on the scale of [-1, 1].
        target: Class to be taken for, by name or number; by default away from the network's own prediction.
        n: Pairs of samples per picture.
        seed: Makes noise and samples repeat.
        network: The network's name or weights file, where that has moved since training.
        device: auto, cpu, cuda or mps.
        output: Picture to write; the numbers go beside it.

    Example:
        invariances attack shapes_shape heart.png --layer pool --epsilon 0.05 --method pgd
    """
    import torch
    from tqdm import tqdm

    from invariances.cli.results import class_number, interpreter_of, pictures_of, written
    from invariances.experiments.attack import attack as run
    from invariances.experiments.samples import record
    from invariances.system.seeds import seeded
    from invariances.zoo.interpreters import layers_of

    interpreter = interpreter_of(model, layer, network, device)
    pictures = pictures_of(images, interpreter.image_size)
    aim = None if target is None else class_number(interpreter, target)
    rows, numbers = [], []
    for number, picture in enumerate(tqdm(pictures, desc="attacking", unit="picture", delay=2)):
        draws = seeded("attack", seed, number)
        found = run(interpreter, picture[None], method, epsilon, aim, n, draws, layers_of(model))
        rows.append(found.tiles())
        numbers += found.numbers(interpreter.representation.class_names)
    names = ["picture", "attacked", "autoencoder", "network sees", "with noise", *["sample", "attacked"] * n]
    cut = interpreter.representation
    asked = {"method": method, "epsilon": epsilon, "target": aim, "n": n, "seed": seed}
    written(output, torch.cat(rows), record(cut.network_name, cut.layer, numbers, **asked), (None, names))
