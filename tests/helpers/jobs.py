"""Whole jobs on small films, and what came of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from helpers.films import flash_film, loud_from
from helpers.paths import CLIP
from onnxdream.dream.dreamer import Dreamer
from onnxdream.images import Picture, write_picture
from onnxdream.networks.model import Model
from onnxdream.objectives import l2
from onnxdream.video.dreamer import VideoDreamer
from onnxdream.video.io.open import Encoding, open_source
from onnxdream.video.job.job import VideoResult, dream_video

LOOK = ["-l", "fire2", "--octaves", "1", "--steps", "1", "--frame-steps", "1", "--jitter", "4", "-q"]
LOSSLESS = Encoding(codec="ffv1")


def clip_pictures(count: int = 12, width: int = 96, height: int = 54, deep: bool = False) -> list[np.ndarray]:
    """The first frames of the clip, RGB, small."""
    with open_source(CLIP) as video:
        frames = [f.image for f, _ in zip(video.frames(), range(count), strict=False)]
    small = [cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames]
    return [s.astype(np.uint16) * 257 for s in small] if deep else small


def new_look(model: Model) -> Dreamer:
    return Dreamer(model, l2("fire2"), octaves=1, steps=1, step_size=4, jitter=4)


def job(source: Path | str, target: Path, look: Dreamer, **options: Any) -> VideoResult:
    return dream_video(source, target, VideoDreamer(look, frame_steps=1), settings={"seed": look.seed}, **options)


def shown(path: Path | str) -> list[tuple[Fraction, np.ndarray, np.ndarray | None]]:
    with open_source(path) as video:
        return [(f.pts * video.info.time_base, f.image, f.alpha) for f in video.frames()]


def times(path: Path | str) -> list[Fraction]:
    return [time for time, _, _ in shown(path)]


def assert_same_film(first: Path, second: Path) -> None:
    a, b = shown(first), shown(second)
    assert [time for time, _, _ in a] == [time for time, _, _ in b]
    for (_, ours, _), (_, theirs, _) in zip(a, b, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def strength(source: Path, dream: Path) -> float:
    """The least mean change of a frame, of 255."""
    pairs = zip(shown(source), shown(dream), strict=True)
    return min(
        float(np.abs(a.astype(np.float64) - b).mean()) / np.iinfo(a.dtype).max * 255 for (_, a, _), (_, b, _) in pairs
    )


def film(path: Path) -> Path:
    """24 frames with two languages of sound, subtitles, two chapters and tags, as far as the container knows them."""
    mp4 = path.suffix == ".mp4"
    with av.open(str(CLIP)) as clip, av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", 25)
        video.width, video.height, video.pix_fmt = 96, 54, "yuv420p"
        sound = [out.add_stream_from_template(clip.streams.audio[0]) for _ in range(2)]
        text: Any = out.add_stream("mov_text" if mp4 else "subrip")
        text.codec_context.subtitle_header = (
            b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name\n\n[Events]\nFormat: Layer, Text\n"
        )
        text.time_base = Fraction(1, 1000)
        sound[0].metadata.update(language="eng")
        sound[1].metadata.update(language="ger")
        text.metadata.update(language="fre")
        out.metadata.update(title="Film", artist="Blender")
        out.set_chapters([
            {"id": n, "start": n * 480, "end": (n + 1) * 480, "time_base": Fraction(1, 1000),
             "metadata": {"title": name}}
            for n, name in enumerate(("one", "two"))
        ])  # fmt: skip
        for number, image in enumerate(clip_pictures(24)):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p", threads=1)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for packet in clip.demux(audio=0):
            if not packet.size or packet.pts < 0 or packet.pts * packet.time_base >= Fraction(24, 25):
                continue
            for lag, stream in enumerate(sound):
                again = av.Packet(bytes(packet))
                again.pts = again.dts = packet.pts + 480 * lag
                again.duration, again.time_base, again.stream = packet.duration, packet.time_base, stream
                again.is_keyframe = True
                out.mux(again)
        for begin in (100, 500):
            line = b"hello %d" % begin
            packet = av.Packet(len(line).to_bytes(2, "big") + line if mp4 else line)
            packet.pts = packet.dts = begin
            packet.duration, packet.time_base, packet.stream = 300, Fraction(1, 1000), text
            out.mux(packet)
    return path


def flash(path: Path) -> Path:
    """Two seconds of dark and silence, but for frame 25 and the sound that goes with it."""
    return flash_film(path, frames=50, at=25, size=(96, 54), levels=(20, 235), keys=20)


def flash_times(path: Path) -> tuple[Fraction, float]:
    """When the light and when the sound of `flash` begin in a film, in seconds."""
    bright = next(time for time, image, _ in shown(path) if image.mean() > 128)
    return bright, loud_from(path)


def stills(folder: Path, count: int = 12, bits: int = 8) -> Path:
    folder.mkdir()
    for number, image in enumerate(clip_pictures(count)):
        write_picture(folder / f"p{number}.png", Picture(image.astype(np.float32), None, bits), {})
    return folder


def stopped(source: Path | str, target: Path, look: Dreamer, after: int, **options: Any) -> None:
    """A job that is cancelled after so many frames."""
    assert job(source, target, look, on_frame=lambda p: p.frame < after, **options).cancelled
    assert not target.exists()
