"""Clips: what goes in comes out, with its times and its sound."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from invariances.data.clips import Clip, ClipWriter, DrawnClip
from invariances.system.errors import UserError

av = pytest.importorskip("av", reason="videos need PyAV: pip install 'invariances[app]'")
VIDEOS = Path(__file__).parents[3] / "shared" / "data" / "videos"


def write(path, times, codec="mpeg4", sound=None, size=(48, 32), base=Fraction(1, 1000), format=None):
    """A clip whose frame k is grey of level 10 k, shown at times[k] milliseconds."""
    with av.open(str(path), "w", format=format) as out:
        video = out.add_stream(codec, rate=25)
        video.width, video.height = size
        video.pix_fmt = "yuv420p" if codec != "gif" else "rgb8"
        video.codec_context.time_base = base
        audio = out.add_stream(sound, rate=44100) if sound else None
        for k, at in enumerate(times):
            array = np.full((size[1], size[0], 3), min(40 + 10 * k, 250), np.uint8)
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = round(at / 1000 / base), base
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio:
            samples = np.zeros((2, 44100), np.float32)
            for start in range(0, 44100, 1024):
                part = np.ascontiguousarray(samples[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = 44100, start
                out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return path


def copied(source, target, size=32):
    with Clip(source, size) as clip, ClipWriter(target, clip, size) as writer:
        for frame in clip:
            writer.write(frame[None])
    return target


def shown(path):
    """(levels, seconds since the first frame, codec, pixel format, sound's codec)."""
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        sound = file.streams.audio[0].codec_context.name if file.streams.audio else None
        frames = list(file.decode(video))
        at = [float((each.pts - frames[0].pts) * video.time_base) for each in frames]
        levels = [float(each.to_ndarray(format="rgb24").mean()) for each in frames]
        return levels, at, video.codec_context.name, video.codec_context.pix_fmt, sound


@pytest.mark.parametrize(
    ("name", "codec", "sound", "kept"),
    [
        ("a.mp4", "mpeg4", "aac", "aac"),
        ("a.mkv", "libx264", "aac", "aac"),
        ("a.avi", "mpeg4", "mp3", "mp3float"),
        ("a.webm", "libvpx", "libopus", "aac"),
        ("a.mp4", "libx264", None, None),
    ],
)
def test_frames_times_and_sound_are_kept(tmp_path, name, codec, sound, kept):
    times = [0, 40, 80, 120, 160, 200, 240, 280]
    base = Fraction(1, 25) if name.endswith("avi") else Fraction(1, 1000)
    try:
        source = write(tmp_path / name, times, codec, sound, base=base)
    except (ValueError, av.FFmpegError) as error:
        pytest.skip(f"this PyAV cannot make {name} with {codec} and {sound}: {error}")
    levels, at, made, pixels, heard = shown(copied(source, tmp_path / "out.mp4"))
    assert (made, pixels) == ("h264", "yuv420p")
    assert (heard is None) == (kept is None)
    assert np.allclose(levels, [40 + 10 * k for k in range(8)], atol=6)
    assert np.allclose(at, shown(source)[1], atol=0.002)


def test_variable_rates_stay(tmp_path):
    times = [0, 30, 100, 400, 420, 1000]
    _, at, *_ = shown(copied(write(tmp_path / "a.mkv", times, "libx264"), tmp_path / "out.mp4"))
    assert np.allclose(at, [each / 1000 for each in times], atol=0.002)


def test_gifs_are_clips(tmp_path):
    from PIL import Image

    pictures = [Image.new("RGB", (40, 30), (60 * k, 60 * k, 60 * k)) for k in range(4)]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100, 200, 50, 100]
    )
    levels, at, *_ = shown(copied(tmp_path / "a.gif", tmp_path / "out.mp4"))
    assert np.allclose(levels, [0, 60, 120, 180], atol=6)
    assert np.allclose(at, [0, 0.1, 0.3, 0.35], atol=0.002)


def test_the_index_comes_first_so_that_browsers_start_at_once(tmp_path):
    data = copied(write(tmp_path / "a.mp4", range(0, 800, 40)), tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_middle_square_is_taken_and_open_files_are_read(tmp_path):
    source = write(tmp_path / "a.mp4", [0, 40])
    with Clip(io.BytesIO(source.read_bytes()), 16) as clip:
        frames = list(clip)
        assert clip.frames == 2
        assert clip.seconds == pytest.approx(0.08, abs=0.05)
    assert frames[0].shape == (3, 16, 16)


def test_the_drawn_clip_moves_and_ends_where_it_began(tmp_path):
    clip = DrawnClip(frames=12, size=32, seconds=0.5)
    frames = torch.stack(list(clip))
    assert frames.shape == (12, 3, 32, 32)
    assert (frames[0] - frames[6]).abs().max() > 0.5
    levels, at, codec, *_ = shown(_drawn(tmp_path))
    assert (len(levels), codec) == (12, "h264")
    assert at[-1] == pytest.approx(11 / 24, abs=0.01)


def _drawn(tmp_path):
    clip = DrawnClip(frames=12, size=32, seconds=0.5)
    with ClipWriter(tmp_path / "out.mp4", clip, 32) as writer:
        for frame in clip:
            writer.write(frame[None])
    return tmp_path / "out.mp4"


def test_a_writer_that_is_stopped_leaves_a_whole_file(tmp_path):
    source = write(tmp_path / "a.mp4", range(0, 2000, 40), sound="aac")
    with Clip(source, 32) as clip, ClipWriter(tmp_path / "out.mp4", clip, 32) as writer:
        for number, frame in enumerate(clip):
            if number == 10:
                break
            writer.write(frame[None])
    levels, *_ = shown(tmp_path / "out.mp4")
    assert len(levels) == 10


@pytest.mark.parametrize("content", [b"", b"MZ" + bytes(500), b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_what_is_no_video_is_refused(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with (
        pytest.raises(UserError, match=r"no video that can be read|no frames|no pictures"),
        Clip(tmp_path / "a.mp4", 16) as clip,
    ):
        list(clip)


def test_a_damaged_end_is_told_and_a_missing_file_too(tmp_path):
    whole = write(tmp_path / "a.mkv", range(0, 2000, 40), "libx264").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    with Clip(tmp_path / "cut.mkv", 16) as clip:
        assert 0 < len(list(clip)) < 50
    with pytest.raises(UserError, match="does not exist"):
        Clip(tmp_path / "none.mp4", 16)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as out:
        audio = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    with pytest.raises(UserError, match="holds no pictures"):
        Clip(tmp_path / "a.m4a", 16)


@pytest.mark.skipif(not VIDEOS.exists(), reason="../shared/data/videos is not here")
def test_a_real_clip_keeps_its_rate_length_and_sound(tmp_path):
    copied(VIDEOS / "doggo2short00.mp4", tmp_path / "out.mp4", 64)
    with av.open(str(VIDEOS / "doggo2short00.mp4")) as one, av.open(str(tmp_path / "out.mp4")) as two:
        assert two.streams.video[0].frames == one.streams.video[0].frames
        assert float(two.streams.video[0].average_rate) == pytest.approx(
            float(one.streams.video[0].average_rate), rel=0.01
        )
        assert two.streams.audio[0].duration == pytest.approx(one.streams.audio[0].duration, rel=0.05)
