"""`invariances quickstart`: the whole street on drawn pictures, or on one's own, in minutes."""

from __future__ import annotations


def quickstart(
    images: str | None = None,
    network: str | None = None,
    layers: list[str] | None = None,
    output: str = "quickstart",
    minutes: float | None = None,
    steps: int | None = None,
    pictures: int | None = None,
    held_out: int | None = None,
    seed: int = 0,
) -> None:
    """Trains flows for some layers of a small network and writes a page that shows what each keeps and ignores.

    Without arguments: at first animals, through a flow that ships; then drawn pictures whose factors are known, and a
    classifier that ships. Writes index.html, which needs no other file, and summary.json with every number of it; each
    layer's run can be evaluated further.

    Args:
        images: Folder of your own photos; one folder per class in it gives the classifier.
        network: Whose layers to look into; needed where the photos have no class folders.
        layers: Their names, from input to output; some along the way by default.
        output: Folder to write to.
        minutes: Time to take, 4 by default. How many steps fit into it is measured here.
        steps: Training steps per layer, in place of minutes.
        pictures: Number of drawn pictures to train on, or of random crops of your own photos where those are fewer.
        held_out: Number of pictures kept out that numbers are measured on; more make them steadier.
        seed: Of everything.

    Example:
        invariances quickstart
        invariances quickstart --images photos/ --network resnet50
        invariances quickstart --layers pool logits --pictures 240000 --minutes 60 --held_out 2000
    """
    import shlex
    from dataclasses import replace
    from pathlib import Path
    from typing import Any

    from invariances.recipes.quickstart import PAGE, Effort
    from invariances.recipes.quickstart import quickstart as run

    given = {
        "pictures": pictures,
        "held_out": held_out,
        "minutes": minutes,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    effort = replace(Effort(), **chosen)
    if steps is not None:
        effort = replace(effort, minutes=None, learning=replace(effort.learning, steps=steps))
    summary = run(output, images=images, network=network, layers=layers, effort=effort, seed=seed)
    last = list(summary["layers"].values())[-1]
    print(Path(output) / PAGE)
    print("next:")
    print(f"  invariances evaluate {shlex.quote(last['run'])} --images {shlex.quote(images or 'FOLDER')}")
    print("  invariances quickstart --images FOLDER_OF_CLASS_FOLDERS")
    print(
        "  invariances fit --network resnet50 --layer layer4 --autoencoder photos64_ae --preset maps --images FOLDER"
    )
