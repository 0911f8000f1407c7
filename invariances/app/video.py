"""The page of image-to-video translation."""

from __future__ import annotations

import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st

from invariances.app import controls, downloads, figures, gallery, models, pictures
from invariances.app.again import python, shell
from invariances.app.compute import TURNS, computed
from invariances.app.frame import public
from invariances.data.clips import SUFFIXES, Clip, ClipWriter, DrawnClip
from invariances.experiments.video import Translated, about, translated
from invariances.interpreter import Interpreter
from invariances.system.errors import UserError

BUILT_IN, OWN = "Built in", "Your own"
LONGEST = 300
_LOOKS_A_SECOND, _PATIENCE = 8, 10.0


def page() -> None:
    """Chooses, translates frame by frame, shows."""
    figures.lead(
        "The picture gives the content, the clip gives everything that the layer ignores: the picture's content moves "
        "as the clip does."
    )
    above = st.container()
    one, two, three, four = st.columns([2.6, 1.6, 2, 1.1], vertical_alignment="bottom")
    with one:
        network = models.choose_network()
    with two:
        layer = models.choose_layer(network)
    with three:
        clips = _clips()
        clip = str(st.selectbox("Clip", [BUILT_IN, *clips, OWN], key="clip", bind="query-params"))
    with four, controls.more():
        device = controls.device()
        st.caption("Videos draw nothing at random: equal frames give equal results.")
    source = clips.get(clip) if clip != OWN else _own()
    downloads.ensure_here(network, [layer])
    with above:
        (picture,) = gallery.choose(network)
    if clip == OWN and source is None:
        st.info(
            "Choose a clip: mp4, mkv, avi, webm, mov or gif, up to 64 MB and 5 minutes.",
            icon=":material/movie:",
        )
        return
    name = clip if not isinstance(source, tuple) else source[0]
    key = ("video", picture.name, network, layer, name, device)
    buttons = st.container(horizontal=True)
    started = buttons.button("Translate", type="primary", icon=":material/play_arrow:", key="translate")
    if started:
        buttons.button("Stop", key="stop-video", icon=":material/stop_circle:")
        interpreter = computed(
            ("interpreter", network, layer, device),
            "Loading",
            lambda: models.loaded(network, device).at(layer),
        )
        work = st.session_state["clip-work"] = _Work()
        _run(interpreter, picture, source, (key, work))
    made = _made()
    if made and made["key"] == key:
        _show(made, picture)
        size = made["last"].frames.shape[-1]
        code, command = _again(network, layer, picture, _file(source), size)
        again = figures.Again(code, command, pictures.unsaved([picture], size))
        told = about(network, layer, made["clip"], made["frames"], made["whole"])
        figures.footer("video", made["data"], told, again)


class _Work:
    """One translation. A click starts the page anew while the old one still ends its clip, so the two meet here."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.made: dict[str, Any] | None = None


def _made() -> dict[str, Any] | None:
    """What the last translation made, once it has ended."""
    work = st.session_state.get("clip-work")
    if work is None or not work.done.wait(_PATIENCE):
        return None
    found: dict[str, Any] | None = work.made
    return found


def _clips() -> dict[str, Path]:
    folder = pictures.DATA / "videos"
    if not folder.is_dir():
        return {}
    return {each.name: each for each in sorted(folder.iterdir()) if each.suffix.lower() in SUFFIXES}


def _own() -> tuple[str, bytes] | None:
    file = st.file_uploader("Your clip", key="own-clip", max_upload_size=64)
    return None if file is None else (f"{file.name}/{file.file_id}", file.getvalue())


def _opened(source: Path | tuple[str, bytes] | None, size: int) -> Clip | DrawnClip:
    if source is None:
        return DrawnClip(size=size)
    clip = Clip(source if isinstance(source, Path) else io.BytesIO(source[1]), size)
    if (clip.seconds or 0) > LONGEST:
        with clip:
            raise UserError(
                f"the clip lasts {clip.seconds or 0:,.0f} s; here 5 minutes are the most: cut it, or use "
                "`invariances video`, which takes any length"
            )
    return clip


@contextmanager
def _draft() -> Iterator[str]:
    descriptor, path = tempfile.mkstemp(prefix="invariances-", suffix=".mp4")
    os.close(descriptor)
    try:
        yield path
    finally:
        os.unlink(path)


def _run(interpreter: Interpreter, picture: Any, source: Any, task: tuple[Any, _Work]) -> None:
    """Translates; a stop, or any other click, ends the clip where it is, and what was made is kept."""
    size = interpreter.image_size
    bar, live = st.empty(), st.empty()
    key, work = task
    made: dict[str, Any] = {"key": key, "frames": 0, "whole": False}
    with _draft() as path:
        try:
            content = picture.load(size)
            with _opened(source, size) as clip, ClipWriter(path, clip, size) as writer:
                made |= {"total": clip.frames, "clip": clip}
                begun, shown = time.monotonic(), 0.0
                parts = translated(interpreter, content, _bounded(clip))
                while (part := _next(parts)) is not None:
                    writer.write(part.results)
                    made["frames"] = writer.count
                    made["speed"] = writer.count / max(time.monotonic() - begun, 1e-9)
                    made["last"] = part
                    if time.monotonic() - shown > 1 / _LOOKS_A_SECOND:
                        shown = time.monotonic()
                        _live(bar, live, part, content, made)
                made["whole"] = True
        finally:
            if made["frames"]:
                made["data"] = Path(path).read_bytes()
                work.made = made
            work.done.set()
    bar.empty()
    live.empty()
    st.rerun()


def _bounded(clip: Clip | DrawnClip) -> Iterator[Any]:
    """Frames as far as the limit, should a file lie about its length."""
    for number, frame in enumerate(clip):
        if number >= LONGEST * 120:
            return
        yield frame


def _next(parts: Iterator[Translated]) -> Translated | None:
    """The next frames; between two of these others get their turn."""
    with TURNS.turn():
        return next(parts, None)


def _live(bar: Any, live: Any, part: Translated, content: Any, made: dict[str, Any]) -> None:
    total = f" of {made['total']}" if made.get("total") else ""
    share = min(1.0, made["frames"] / made["total"]) if made.get("total") else 0.0
    bar.progress(share, f"Frame {made['frames']}{total} · {made['speed']:.0f} frames/s")
    tiles = [
        (part.frames[-1], "invariances: the frame"),
        (content, "content: the picture"),
        (part.results[-1], "result"),
    ]
    live.html(figures.equation(tiles, ["+", "="]))


def _show(made: dict[str, Any], picture: pictures.Picture) -> None:
    clip = made["clip"]
    total = f" of {made['total']}" if made.get("total") else ""
    if not made["whole"]:
        st.info(
            f"Stopped at frame {made['frames']}{total}; this is the clip as far as it goes.",
            icon=":material/stop:",
        )
    if clip.damage:
        st.warning(public(UserError(clip.damage)), icon=":material/broken_image:")
    left, right = st.columns([1, 1.2], gap="large")
    with left:
        figures.heading("Result")
        st.video(made["data"], loop=True, autoplay=True, muted=True)
    with right:
        figures.heading("The last frame")
        part = made["last"]
        size = part.frames.shape[-1]
        tiles = [(part.frames[-1], "clip"), (picture.load(size), "picture"), (part.results[-1], "result")]
        st.html(figures.equation(tiles, ["+", "="]))
        sound = "without sound, as the clip" if clip.sound is None else "with the clip's sound"
        st.caption(
            f"{made['frames']} frames at {float(clip.rate):.4g} frames/s, {sound}; "
            f"made at {made['speed']:.0f} frames/s."
        )


def _file(source: Path | tuple[str, bytes] | None) -> str:
    """What the clip is called on disk; empty for the built-in one."""
    if source is None:
        return ""
    return source.as_posix() if isinstance(source, Path) else Path(source[0]).parent.name


def _again(network: str, layer: str, picture: pictures.Picture, file: str, size: int) -> tuple[str, str]:
    """The Python and the command that make the clip again."""
    opened = f"Clip({file!r}, side)" if file else "DrawnClip(size=side)"
    code = python(
        f"interpreter = Interpreter.load({network!r}, layer={layer!r})",
        "side = interpreter.image_size",
        f"picture = {picture.code(size)}[0]",
        f"with {opened} as clip, ClipWriter('video.mp4', clip, side) as writer:",
        "    for part in translated(interpreter, picture, clip):",
        "        writer.write(part.results)",
        f"print(about({network!r}, {layer!r}, clip, writer.count, whole=True))",
    )
    more = ["--clip", file] if file else []
    return code, shell("video", network, picture.file, "--layer", layer, *more)
