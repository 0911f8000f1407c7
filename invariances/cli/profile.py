"""`invariances profile` and `invariances compare`: whole networks in numbers, alone and side by side."""

from __future__ import annotations

from typing import Any

from invariances.system.errors import UserError


def profile_network(
    network: str,
    layers: list[str] | None = None,
    autoencoder: str | None = None,
    images: str | None = None,
    output: str = "profile",
    weights: str | None = None,
    checkpoints: str | None = None,
    held_out: str | None = None,
    preset: str = "minutes",
    n: int = 8,
    limit: int = 500,
    second: str | None = None,
    lpips: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """What each layer of a network keeps and ignores: one page and one JSON.

    Trains a flow for each layer and one that is told nothing, and measures all. A stopped profile goes on. Of a run's
    folder, or a folder of runs of one network, their flows are measured; so are those that are shipped.

    Args:
        network: Name of a torchvision, timm, published or shipped network; or the folder of a run, or of several.
        layers: From the input to the output; by default the runs', those with shipped flows, or some along it.
        autoencoder: A file of `invariances fit-autoencoder`, or a published or shipped name; by default the runs', or
            shapes_vae.
        images: Folder of pictures; "shapes" for drawn ones. By default those that the runs kept out, or drawn ones.
        output: Folder to write to.
        weights: The network's weights file, where they are not its own.
        checkpoints: Pattern of the network's weights files while it trained, in quotes: each is profiled, in order of
            the numbers in their names, and a page shows what it learns to keep and to forget.
        held_out: Folder of pictures to keep out; by default a tenth of the images.
        preset: Of the flows that are trained: minutes, hours or published.
        n: Samples per picture.
        limit: Pictures whose samples are looked at.
        second: A second network's layer, NETWORK:LAYER, to say how much samples vary to it.
        lpips: File of AlexNet's LPIPS, to say how much samples vary to the eye.
        seed: Of everything.
        device: auto, cpu, cuda or mps.

    Example:
        invariances profile shapes_shape
        invariances profile runs/resnet50_layer4
        invariances profile shapes_shape --checkpoints 'checkpoints/*.safetensors' --layers stage3 logits
        invariances profile resnet50 --layers layer1 layer4 fc --autoencoder my.safetensors --images photos/
    """
    settings = {
        "preset": preset,
        "n": n,
        "limit": limit,
        "second": second,
        "lpips": lpips,
        "seed": seed,
        "device": device,
    }
    _profile(network, layers, (autoencoder, images, weights, held_out, checkpoints), output, settings)


def _profile(
    network: str,
    layers: list[str] | None,
    parts: tuple[str | None, ...],
    output: str,
    settings: dict[str, Any],
) -> None:
    """Apart from the command, whose help would import what is imported here."""
    from invariances.recipes.profile import ProfileConfig
    from invariances.recipes.profile_subjects import profile_named

    autoencoder, images, weights, held_out, checkpoints = parts
    config = ProfileConfig(**settings)
    if checkpoints is not None:
        from invariances.recipes.profile_training import profile_training_named

        if weights is not None:
            raise UserError("give --weights or --checkpoints, not both")
        sources = autoencoder, images, held_out
        profile_training_named(network, layers, sources, checkpoints, output, config)
        return
    profile_named(
        network, layers, autoencoder, images, output, weights=weights, held_out=held_out, config=config
    )


def compare_profiles(one: str, other: str, output: str = "comparison") -> None:
    """Two profiles on the same pictures: differences of all numbers with intervals, the most different pictures first.

    Args:
        one: Folder of a profile; or of a run, or of several of one network, which are profiled first.
        other: Folder of another, made with the same --images, --n, --limit and --seed.
        output: Folder to write to.

    Example:
        invariances compare profiles/shape profiles/texture --output shape_or_texture
        invariances compare runs/resnet50_layer4 runs/resnet50_of_mine_layer4
    """
    import sys
    from pathlib import Path

    from invariances.evaluation.numbers import finite
    from invariances.recipes.compare import compare
    from invariances.report.html import text_table

    found = finite(compare(one, other, output))
    rows = [
        [layer, name, each["one"], each["other"], each["difference"]]
        for layer, numbers in found["layers"].items()
        for name, each in numbers.items()
        if each["sure"]
    ]
    if rows:
        print(text_table(["layer", "sure difference", "one", "other", "difference"], rows))
    else:
        print("no difference is sure")
    if alone := found["layers_of_one_alone"]:
        print(f"not compared, since only one has them: {', '.join(alone)}", file=sys.stderr)
    print(f"page: {Path(output) / 'index.html'}", file=sys.stderr)
