"""`invariances video`: the content of a picture moves as a clip does."""

from __future__ import annotations


def video(
    model: str,
    image: str,
    clip: str | None = None,
    layer: str | None = None,
    network: str | None = None,
    device: str = "auto",
    output: str = "video.mp4",
) -> None:
    """Show the picture's content with the invariances of each frame of a clip.

    The result has the clip's times and sound, as H.264 in an mp4 that browsers play. Clips are read as a stream.

    Args:
        model: A run's folder, or a name that `invariances models list` shows.
        image: Picture whose content is shown.
        clip: mp4, mkv, avi, webm or gif whose frames move; a drawn one by default.
        layer: Which layer of a name.
        network: The network's name or weights file, where that has moved since training.
        device: auto, cpu, cuda or mps.
        output: mp4 to write; a JSON file about it goes beside it.

    Example:
        invariances video shapes_shape heart.png --layer pool
        invariances video cinn_resnet_animalfaces10_ae_layer4 cat.jpg --clip doggo.mp4
    """
    import sys
    from pathlib import Path

    from tqdm import tqdm

    from invariances.cli.results import interpreter_of, pictures_of, write_json
    from invariances.data.clips import Clip, ClipWriter, DrawnClip
    from invariances.experiments.video import about, translated
    from invariances.system.files import atomic

    _check(output, image, clip)
    interpreter = interpreter_of(model, layer, network, device)
    side = interpreter.image_size
    picture = pictures_of([image], side)[0]
    source = DrawnClip(size=side) if clip is None else Clip(clip, side)
    with (
        atomic(Path(output)) as draft,
        source,
        ClipWriter(draft, source, side) as writer,
        tqdm(total=source.frames, unit="frame") as bar,
    ):
        for part in translated(interpreter, picture, source):
            writer.write(part.results)
            bar.update(len(part.results))
    if source.damage:
        print(f"invariances: {source.damage}", file=sys.stderr)
    print(output)
    cut = interpreter.representation
    print(write_json(output, about(cut.network_name, cut.layer, source, writer.count, whole=True)))


def _check(output: str, image: str, clip: str | None) -> None:
    from pathlib import Path

    from invariances.system.errors import UserError

    if Path(output).suffix.lower() != ".mp4":
        raise UserError(f"{output!r} has not the ending of what is written; use .mp4")
    if Path(image).is_dir():
        raise UserError(f"{image!r} is a folder; a video shows one picture: name it")
    if clip is not None and Path(output).resolve() == Path(clip).resolve():
        raise UserError(f"{output!r} is the clip itself; write elsewhere")
