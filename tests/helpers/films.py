"""Films made and looked into with PyAV, and what a source and its result hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.filter import Graph

from onnxdream.video.io.open import (
    ColorTags,
    Encoding,
    VideoFrame,
    VideoInfo,
    check_encoding,
    finish,
    open_source,
    open_writer,
    settings_metadata,
)

SETTINGS = {"model": "squeezenet1_1", "steps": 3}
FFV1 = Encoding(codec="ffv1")
BT709, BT601, BT2020 = 1, 6, 9


def info_of(width: int = 64, height: int = 48, **changes: Any) -> VideoInfo:
    basic = VideoInfo(
        width=width, height=height, rate=Fraction(25), time_base=Fraction(1, 25), frames=None, duration=None, bits=8,
        alpha=False, color=ColorTags(1, 1, 1, 1), pix_fmt="yuv420p", codec="h264", has_audio=False,
    )  # fmt: skip
    return replace(basic, **changes)


def picture(number: int, width: int = 64, height: int = 48, deep: bool = False) -> np.ndarray:
    """A smooth picture that is different for every number, RGB."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [np.sin(x / (9 + c) + number * 0.7) + np.cos(y / (7 + c) - number * 0.4 + c) for c in range(3)]
    top = 65535 if deep else 255
    return np.rint((np.dstack(waves) + 2) / 4 * top).astype(np.uint16 if deep else np.uint8)


def write_video(
    path: Path,
    images: Iterable[np.ndarray],
    times: Iterable[int] | None = None,
    *,
    time_base: Fraction = Fraction(1, 25),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    setup: Callable[[Any], None] = lambda stream: None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A video made with PyAV alone."""
    with av.open(str(path), "w", container_options=container_options or {}) as out:
        stream: Any = None
        for number, image in enumerate(images):
            if stream is None:
                stream = out.add_stream(codec, 25, options=options or {})
                stream.width, stream.height, stream.pix_fmt = image.shape[1], image.shape[0], pix_fmt
                stream.codec_context.time_base = time_base
                setup(stream)
            frame = av.VideoFrame.from_ndarray(image, "rgb24" if image.dtype == np.uint8 else "rgb48le")
            frame = frame.reformat(format=pix_fmt, threads=1)
            frame.pts = number if times is None else list(times)[number]
            frame.time_base = time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def encode(
    frames: Iterable[tuple[Any, ...]],
    info: VideoInfo,
    target: Path,
    *,
    encoding: Encoding = Encoding(),  # noqa: B008
    cuts: Iterable[int] = (),
    source: Path | None = None,
    **finishing: Any,
) -> Path:
    """Frames, each the arguments of `FrameWriter.write`, to a result, a new segment beginning at each of `cuts`."""
    check_encoding(target, info, encoding)
    parts: list[Path] = []
    writer = None
    for number, frame in enumerate(frames):
        if writer is None or number in set(cuts):
            if writer is not None:
                writer.close()
            parts.append(target.parent / f"{target.name}-{len(parts)}")
            writer = open_writer(parts[-1], info, encoding, target)
        writer.write(*frame)
    assert writer is not None
    writer.close()
    finish(target, parts, source, info, metadata=settings_metadata(SETTINGS), **finishing)
    for part in parts:
        part.unlink()
    return target


def convert(source: Path | str, target: Path, **options: Any) -> Path:
    """Every frame of a source, as it is, to a result."""
    times = {k: options[k] for k in ("start", "end") if k in options}
    with open_source(source) as video:
        frames = ((f.image, f.pts, f.alpha, f) for f in video.frames(**times))
        return encode(frames, video.info, target, source=Path(source), **options)


def planes_of(path: Path | str) -> list[list[np.ndarray]]:
    """The planes of every frame, as they were decoded."""
    with av.open(str(path)) as container:
        return [
            [
                np.frombuffer(memoryview(plane), np.uint8 if frame.format.components[0].bits == 8 else np.uint16)
                .reshape(plane.height, -1)[:, : plane.width]
                .copy()
                for plane in frame.planes
            ]
            for frame in container.decode(video=0)
        ]  # fmt: skip


def planes_film(path: Path, frames: list[list[np.ndarray]], pix_fmt: str, siting: str, tags: ColorTags) -> Path:
    """A lossless film of such planes, in FFV1."""
    height, width = frames[0][0].shape
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("ffv1", 25, options={"chroma_sample_location": siting})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = tags.primaries, tags.transfer, tags.matrix
        context.color_range = tags.range
        for number, planes in enumerate(frames):
            frame = av.VideoFrame(width, height, pix_fmt)
            for target, plane in zip(frame.planes, planes, strict=True):
                np.frombuffer(memoryview(target), plane.dtype).reshape(target.height, -1)[:, : target.width] = plane
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def frames_of(path: Path | str, **options: Any) -> list[VideoFrame]:
    with open_source(path) as video:
        return list(video.frames(**options))


def times_of(path: Path | str) -> list[Fraction]:
    with open_source(path) as video:
        return [f.pts * video.info.time_base for f in video.frames()]


def packets(path: Path, kind: str, number: int = 0) -> list[tuple[Fraction, Fraction, bytes]]:
    """(time, duration, bytes) of every packet of a stream."""
    with av.open(str(path)) as container:
        stream = [s for s in container.streams if s.type == kind][number]
        return [
            ((p.pts or 0) * p.time_base, (p.duration or 0) * p.time_base, bytes(p))
            for p in container.demux(stream)
            if p.size
        ]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2) / float(np.iinfo(a.dtype).max) ** 2
    return float(-10 * np.log10(error + 1e-12))


def digest(frame: VideoFrame) -> str:
    return hashlib.sha256(frame.image.tobytes()).hexdigest()


def irregular(count: int, seed: int = 1) -> list[int]:
    steps = np.random.default_rng(seed).integers(1, 4000, count - 1)
    return [0, *np.cumsum(steps).tolist()]


def flash_film(path: Path, *, frames: int, at: int, size: tuple[int, int], levels: tuple[int, int], keys: int) -> Path:
    """A film of darkness and silence, 25 frames a second, but for frame `at` and the sound that goes with it.

    `size` is (width, height), `levels` the grey of dark and light frames, `keys` the frames from one key frame on.
    """
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", 25, options={"g": str(keys)})
        (video.width, video.height), video.pix_fmt = size, "yuv420p"
        sound: Any = out.add_stream("pcm_s16le", 48000, layout="mono")
        for number in range(frames):
            image = np.full((*size[::-1], 3), levels[number == at], np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
            wave = np.full((1, 1920), 20000 if number == at else 0, np.int16)
            noise = av.AudioFrame.from_ndarray(wave, "s16", "mono")
            noise.rate, noise.pts, noise.time_base = 48000, number * 1920, Fraction(1, 48000)
            out.mux(sound.encode(noise))
        out.mux(video.encode(None))
        out.mux(sound.encode(None))
    return path


def loud_from(path: Path) -> float:
    """When the sound of such a film begins, in seconds."""
    with av.open(str(path)) as container:
        parts = [(f.pts * f.time_base, f.rate, f.to_ndarray().ravel()) for f in container.decode(audio=0)]
    wave = np.abs(np.concatenate([p.astype(np.float64) for _, _, p in parts]))
    return float(parts[0][0]) + int(np.argmax(wave > wave.max() / 2)) / parts[0][1]


def interlaced_film(path: Path, moments: list[np.ndarray], order: str = "tff", codec: str = "libx264") -> Path:
    """A film of 25 frames a second whose fields are taken from pictures of twice as many moments."""
    first = 0 if order == "tff" else 1
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, 25, options={"g": "12"})
        height, width = moments[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.flags |= Flags.interlaced_dct | Flags.interlaced_me
        graph = Graph()
        source = graph.add_buffer(width=width, height=height, format="yuv420p", time_base=Fraction(1, 25))
        graph.link_nodes(source, graph.add("setfield", order), graph.add("buffersink")).configure()
        for number in range(len(moments) // 2):
            graph.vpush(_planar(woven(moments, number, first)))
            frame = graph.vpull()
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def woven(moments: list[np.ndarray], number: int, first: int = 0) -> np.ndarray:
    """A frame whose even or odd lines (`first` is 0 or 1) show the earlier of its two moments."""
    image = moments[2 * number + 1].copy()
    image[first::2] = moments[2 * number][first::2]
    return image


def _planar(image: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p", threads=1)


def transport_stream(
    path: Path,
    frames: int,
    at: int,
    *,
    size: tuple[int, int] = (64, 48),
    begin: float = 0.0,
    keys: int = 10,
    first_number: int = 0x100,
    program: int = 1,
) -> Path:
    """A film like that of `flash_film` in a transport stream.

    Its clock begins `begin` seconds later than usual; its streams are numbered from `first_number` on.
    """
    options = {"output_ts_offset": str(begin), "mpegts_start_pid": str(first_number)}
    options |= {"mpegts_service_id": str(program), "mpegts_pmt_start_pid": str(0x1000 + 16 * program)}
    with av.open(str(path), "w", container_options=options) as out:
        video: Any = out.add_stream("libx264", 25, options={"g": str(keys), "bf": "2"})
        (video.width, video.height), video.pix_fmt = size, "yuv420p"
        sound: Any = out.add_stream("mp2", 48000, layout="mono")
        in_frames = av.AudioResampler("s16", "mono", 48000, frame_size=1152)
        for number in range(frames):
            image = picture(number, *size) // 4 + (150 if number == at else 0)
            frame = _planar(image.astype(np.uint8))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(video.encode(frame))
            wave = np.full((1, 1920), 20000 if number == at else 0, np.int16)
            noise = av.AudioFrame.from_ndarray(wave, "s16", "mono")
            noise.rate, noise.pts, noise.time_base = 48000, number * 1920, Fraction(1, 48000)
            for part in in_frames.resample(noise):
                out.mux(sound.encode(part))
        out.mux(video.encode(None))
        out.mux(sound.encode(None))
    return path
