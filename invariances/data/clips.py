"""Videos, frame by frame: read from whatever FFmpeg reads, drawn by ourselves, written as H.264 with their sound.

Nothing is held but the frames at work, so memory does not grow with a clip's length. Times are the source's own, so
variable frame rates stay as they are.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invariances.data.arrays import to_tensor, to_uint8
from invariances.data.files import MAX_PIXELS
from invariances.data.shapes import FACTORS, draw
from invariances.system.errors import UserError

SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".gif", ".mov")
_COPIED = ("aac", "mp3")
_LEAST_SIDE = 256


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise UserError("videos need PyAV; `pip install 'invariances[app]'` brings it") from None
    return av


class Clip:
    """A video to read: an iterable of frames (3, size, size) in [-1, 1], their middle square, once through.

    Args:
        source: A file's path, or an open file.
        size: Side of the frames.

    Attributes:
        rate: Frames per second, on average.
        seconds, frames: As the file announces them; None where it does not.
        times: When each frame that was read is to be shown, in `time_base`; a writer takes them out.
        sound: The sound's stream, or None; its packets go to `on_sound`.
        damage: What was wrong where reading ended early, else empty.

    Raises:
        UserError: No video, or one without frames.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO, size: int) -> None:
        av = _av()
        self.size, self.damage = size, ""
        self.times: deque[int] = deque()
        self.on_sound: Callable[[Any], None] | None = None
        named = isinstance(source, (str, os.PathLike))
        self.name = repr(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else "the clip"
        if named and not os.path.isfile(source):  # type: ignore[arg-type]
            raise UserError(f"clip {self.name} does not exist; give a video file")
        try:
            self._container = av.open(os.fspath(source) if named else source)  # type: ignore[arg-type]
        except (av.FFmpegError, ValueError, OSError):
            raise UserError(
                f"{self.name} is no video that can be read; give an mp4, mkv, avi, webm or gif"
            ) from None
        try:
            self._read_head()
        except BaseException:
            self._container.close()
            raise

    def _read_head(self) -> None:
        streams = self._container.streams
        if not streams.video or streams.video[0].codec_context is None:
            raise UserError(f"{self.name} holds no pictures; give a video")
        self._video = streams.video[0]
        self.sound = streams.audio[0] if streams.audio else None
        if self._video.codec_context.width * self._video.codec_context.height > MAX_PIXELS:
            raise UserError(f"{self.name} has larger frames than can be read; scale it down")
        self.rate = Fraction(self._video.average_rate or self._video.guessed_rate or 25)
        self.time_base = Fraction(self._video.time_base or Fraction(1, 1000))
        length = self._video.duration * self.time_base if self._video.duration else None
        if length is None and self._container.duration:
            length = Fraction(self._container.duration, 1_000_000)
        self.seconds = float(length) if length else None
        self.frames = self._video.frames or (round(length * self.rate) if length else None)

    def __enter__(self) -> Clip:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Tensor]:
        av, count, last = _av(), 0, None
        wanted = [self._video, *([self.sound] if self.sound is not None else [])]
        try:
            for packet in self._container.demux(wanted):
                if packet.stream is not self._video:
                    if self.on_sound is not None:
                        self.on_sound(packet)
                    continue
                for frame in packet.decode():
                    last = self._time(frame, last)
                    self.times.append(last)
                    yield self._square(frame)
                    count += 1
        except av.FFmpegError:
            self.damage = f"the clip is damaged after frame {count}; it ends there"
        if not count:
            raise UserError(f"{self.name} holds no frames that can be read; give another clip")

    def _time(self, frame: Any, last: int | None) -> int:
        """When the frame is shown, after the one before it in any case."""
        step = max(1, round(1 / (self.rate * self.time_base)))
        if frame.pts is None:
            return 0 if last is None else last + step
        return int(frame.pts) if last is None else max(int(frame.pts), last + 1)

    def _square(self, frame: Any) -> Tensor:
        array = frame.to_ndarray(format="rgb24")
        quarter = round(getattr(frame, "rotation", 0) / 90) % 4
        return to_tensor(Image.fromarray(np.ascontiguousarray(np.rot90(array, quarter))), self.size)


class DrawnClip:
    """A clip of `Shapes`: a figure wanders, turns and changes its colours; as `Clip`, without sound.

    Args:
        frames: How many.
        size: Side of the frames.
        seconds: Length.
        shape: Kind of figure.
        texture: Kind of texture.
    """

    sound: Any = None
    on_sound: Callable[[Any], None] | None = None
    damage = ""

    def __init__(
        self, frames: int = 96, size: int = 64, seconds: float = 4.0, shape: int = 4, texture: int = 1
    ) -> None:
        self.frames, self.size, self.seconds = frames, size, seconds
        self.shape, self.texture = shape, texture
        self.rate = Fraction(frames / seconds).limit_denominator(1000)
        self.time_base = 1 / self.rate
        self.times: deque[int] = deque()

    def __enter__(self) -> DrawnClip:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(self.frames):
            self.times.append(number)
            yield draw(self.factors(number), self.size)[0]

    def factors(self, number: int) -> dict[str, Tensor]:
        """What frame `number` shows; the last leads into the first."""
        turn = 2 * math.pi * number / self.frames
        return {
            "shape": torch.tensor([self.shape]),
            "texture": torch.tensor([self.texture]),
            "foreground_hue": torch.tensor([(0.05 + number / self.frames) % 1.0]),
            "background_hue": torch.tensor([(0.60 - number / self.frames) % 1.0]),
            "x": torch.tensor([FACTORS["x"].high * 0.9 * math.sin(turn)]),
            "y": torch.tensor([FACTORS["y"].high * 0.9 * math.sin(2 * turn)]),
            "size": torch.tensor([0.62 + 0.1 * math.cos(2 * turn)]),
            "rotation": torch.tensor([40.0 * math.sin(turn + 1)]),
        }


class ClipWriter:
    """An H.264 mp4 (yuv420p, index first) with the times and the sound of the clip it is made from.

    Small pictures are enlarged by a whole number, without blur, so that players show them as they are.

    Args:
        path: The file to write.
        source: A clip that is being read.
        side: Of the frames that come.
    """

    def __init__(self, path: str | os.PathLike[str], source: Clip | DrawnClip, side: int) -> None:
        self.path, self.source, self.count = os.fspath(path), source, 0
        self._scale = max(1, _LEAST_SIDE // side)
        av = _av()
        self._output = av.open(self.path, "w", format="mp4", options={"movflags": "+faststart"})
        codec = "libx264" if "libx264" in av.codecs_available else "h264"
        options = {"crf": "18", "preset": "veryfast"} if codec == "libx264" else {}
        self._video = self._output.add_stream(codec, rate=source.rate, options=options)
        self._video.pix_fmt = "yuv420p"
        self._video.width = self._video.height = self._side = side * self._scale // 2 * 2
        self._video.codec_context.time_base = source.time_base
        self._sound = self._add_sound(source.sound)
        source.on_sound = self._on_sound

    def _add_sound(self, sound: Any) -> Any:
        """A stream for the source's sound: as it is where mp4 players know it, else AAC."""
        self._copied = sound is not None and sound.codec_context.codec.canonical_name in _COPIED
        if sound is None:
            return None
        if self._copied:
            return self._output.add_stream_from_template(sound)
        return self._output.add_stream("aac", rate=sound.codec_context.sample_rate)

    def _on_sound(self, packet: Any) -> None:
        if self._sound is None:
            return
        if not self._copied:
            for frame in packet.decode():
                self._output.mux(self._sound.encode(frame))
        elif packet.dts is not None:
            packet.stream = self._sound
            self._output.mux(packet)

    def write(self, images: Tensor) -> None:
        """Frames (N, 3, S, S) in [-1, 1], for the next N times of the source."""
        av = _av()
        for array in to_uint8(images).numpy():
            array = array.repeat(self._scale, 0).repeat(self._scale, 1)[: self._side, : self._side]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame.pts, frame.time_base = self.source.times.popleft(), self.source.time_base
            self._output.mux(self._video.encode(frame))
            self.count += 1

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the file; a clip that was stopped halfway is whole as far as it goes."""
        if self._output is None:
            return
        try:
            if self.count:
                self._output.mux(self._video.encode(None))
                if self._sound is not None and not self._copied:
                    self._output.mux(self._sound.encode(None))
        finally:
            output, self._output = self._output, None
            output.close()
