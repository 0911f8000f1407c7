"""`invariances quickstart`: the whole street on drawn pictures, or on one's own, in minutes."""

from __future__ import annotations


def quickstart(
    images: str | None = None,
    network: str | None = None,
    layers: list[str] | None = None,
    output: str = "quickstart",
    steps: int | None = None,
    blocks: int | None = None,
    pictures: int | None = None,
    held_out: int | None = None,
    probe_width: int | None = None,
    autoencoder_steps: int | None = None,
    seed: int = 0,
) -> None:
    """Trains flows for some layers of a small network and writes a page that shows what each keeps and ignores.

    Without arguments: drawn pictures whose factors are known, and a classifier that ships. Writes index.html, which
    needs no other file, and summary.json with every number of it; each layer's run can be evaluated further.

    Args:
        images: Folder of your own photos; one folder per class in it gives the classifier.
        network: Whose layers to look into; needed where the photos have no class folders.
        layers: Their names, from input to output; some along the way by default.
        output: Folder to write to.
        steps: Training steps per layer; more make samples agree better with the layer.
        blocks: Blocks of each flow; deeper ones make better samples, given more steps and pictures.
        pictures: Number of drawn pictures to train on, or of random crops of your own photos where those are fewer.
        held_out: Number of pictures kept out that numbers are measured on; more make them steadier.
        probe_width: Width of probes to train on the layers of drawn pictures, in place of those that ship; 32 finds
            more in vectors and small maps, in about ten minutes.
        autoencoder_steps: Steps of the autoencoder on your own photos.
        seed: Of everything: the same seed gives the same page.

    Example:
        invariances quickstart
        invariances quickstart --images photos/ --network resnet50
        invariances quickstart --layers pool logits --pictures 240000 --steps 5000 --blocks 20 --held_out 2000
    """
    from dataclasses import replace
    from pathlib import Path
    from typing import Any

    from invariances.recipes.quickstart import PAGE, Effort
    from invariances.recipes.quickstart import quickstart as run
    from invariances.system.errors import UserError

    given = {
        "steps": steps,
        "blocks": blocks,
        "pictures": pictures,
        "held_out": held_out,
        "probe_width": probe_width,
        "autoencoder_steps": autoencoder_steps,
    }
    for name, value in given.items():
        least = 2 if name == "held_out" else 1
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}; give at least {least}")
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    effort = replace(Effort(), **chosen)
    summary = run(output, images=images, network=network, layers=layers, effort=effort, seed=seed)
    last = list(summary["layers"])[-1]
    folder = Path(output) / "runs" / f"{summary['network']}_{last}"
    print(Path(output) / PAGE)
    print("next:")
    print(f"  invariances evaluate {folder} --images {images or 'FOLDER'}")
    print("  invariances quickstart --images FOLDER_OF_CLASS_FOLDERS")
    print("  invariances fit --network resnet50 --layer layer4 --autoencoder animals64 --images FOLDER")
