"""Whole jobs on every kind of source and through every kind of trouble, looked into with PyAV."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

import small
from conftest import DATA
from onnxdream.dream.dreamer import Dreamer
from onnxdream.errors import OnnxDreamError, OptionError, OutputError, PictureError, VideoError, WriteError
from onnxdream.images import Picture, read_picture, write_picture
from onnxdream.networks.model import Model
from onnxdream.objectives import l2
from onnxdream.video.dreamer import VideoDreamer
from onnxdream.video.io.open import Encoding, open_source
from onnxdream.video.job.job import VideoResult, dream_video
from small import command, onnxdream
from test_video_files import packets, psnr, write_video

CLIP = DATA / "clip.mp4"
FFMPEG = Path("/usr/bin/ffmpeg")
LOOK = ["-l", "fire2", "--octaves", "1", "--steps", "1", "--frame-steps", "1", "--jitter", "4", "-q"]
LOSSLESS = Encoding(codec="ffv1")


def clip_pictures(count: int = 12, width: int = 96, height: int = 54, deep: bool = False) -> list[np.ndarray]:
    """The first frames of the clip, BGR, small."""
    with open_source(CLIP) as video:
        frames = [f.image for f, _ in zip(video.frames(), range(count), strict=False)]
    small = [cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames]
    return [s.astype(np.uint16) * 257 for s in small] if deep else small


def new_look(model: Model) -> Dreamer:
    return Dreamer(model, l2("fire2"), octaves=1, steps=1, step_size=4, jitter=4)


@pytest.fixture(scope="module")
def look(squeezenet: Model) -> Dreamer:
    return new_look(squeezenet)


@pytest.fixture(scope="module")
def nothing(squeezenet: Model) -> Dreamer:
    """Dreams that change no pixel: what comes out is what came in."""
    return Dreamer(squeezenet, l2("fire2"), octaves=1, steps=1, step_size=0, jitter=0)


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


# --- pictures -------------------------------------------------------------------------------------------------------


def see_through(path: Path) -> Path:
    """A video whose opaque left part grows from frame to frame."""
    webm = path.suffix == ".webm"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libvpx-vp9" if webm else "png", 25, options={"auto-alt-ref": "0"} if webm else {})
        stream.width, stream.height, stream.pix_fmt = 96, 54, "yuva420p" if webm else "rgba"
        for number, image in enumerate(clip_pictures()):
            alpha = np.where(np.arange(96) < 16 + 6 * number, 255, 40).astype(np.uint8)
            rgba = np.dstack([image[..., ::-1], np.tile(alpha, (54, 1))])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgba), "rgba").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("given", "wanted"), [("a.mov", "b.mov"), ("a.webm", "b.webm"), ("a.mov", "b.webm"), ("a.mov", "frames")]
)
def test_opacity_goes_with_its_frame(tmp_path: Path, look: Dreamer, given: str, wanted: str) -> None:
    source, target = see_through(tmp_path / given), tmp_path / wanted
    job(source, target, look, segment_frames=5)
    pairs = list(zip(shown(source), shown(target), strict=True))
    assert len(pairs) == 12
    for (_, image, before), (_, dream, after) in pairs:
        assert before is not None
        assert after is not None
        error = np.abs(before / np.iinfo(before.dtype).max - after / np.iinfo(after.dtype).max)
        assert error.mean() < 0.01  # the frame before or after would give 0.05
        assert not np.array_equal(image, dream)


def graded(path: Path, codec: str = "libx265") -> Path:
    """HDR: 10 bits with the colours of BT.2100, a slow ramp that 8 bits would turn into steps."""
    ramp = np.linspace(20000, 24000, 96).astype(np.uint16)
    images = [np.repeat(np.roll(ramp, n)[None, :, None], 54, 0).repeat(3, 2) for n in range(8)]

    def tag(stream: Any) -> None:
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1

    options = {"x265-params": "log-level=none", "crf": "4"} if codec == "libx265" else {}
    return write_video(path, images, codec=codec, pix_fmt="yuv420p10le", options=options, setup=tag)


@pytest.mark.parametrize("target", ["b.mp4", "b.mkv", "b.webm"])
def test_ten_bits_stay_ten_bits_with_their_colours(
    tmp_path: Path, nothing: Dreamer, look: Dreamer, target: str
) -> None:
    source = graded(tmp_path / "a.mp4")
    job(source, tmp_path / target, nothing)
    with av.open(str(tmp_path / target)) as container:
        context: Any = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p10le"
        tags = context.color_primaries, context.color_trc, context.colorspace, context.color_range
        assert tags == (9, 16, 9, 1)
    with open_source(source) as a, open_source(tmp_path / target) as b:
        assert a.info.color == b.info.color
    for (_, ours, _), (_, theirs, _) in zip(shown(tmp_path / target), shown(source), strict=True):
        assert ours.dtype == np.uint16
        assert psnr(ours, theirs) > 55
        assert len(np.unique(ours[27, :, 1])) > 40  # 8 bits would leave 16
    job(source, tmp_path / f"dream-{target}", look)
    assert strength(source, tmp_path / f"dream-{target}") > 1


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_film_shot_sideways_comes_out_upright(tmp_path: Path, nothing: Dreamer, degrees: int) -> None:
    pictures = clip_pictures(4)
    source = write_video(
        tmp_path / "a.mp4", pictures, options={"crf": "8"}, setup=lambda s: s.set_display_rotation(degrees)
    )
    job(source, tmp_path / "b.mp4", nothing)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert [f.rotation for f in container.decode(video=0)] == [0] * 4
    for (_, ours, _), stored in zip(shown(tmp_path / "b.mp4"), pictures, strict=True):
        assert psnr(ours, np.rot90(stored, degrees // 90)) > 30


@pytest.mark.parametrize(
    ("given", "target"),
    [("a.mp4", "b.mp4"), ("a.mp4", "b.mov"), ("a.mkv", "b.mp4"), ("a.mkv", "b.mkv"), ("a.mp4", "b.mkv")],
)
def test_a_variable_rate_is_kept_exactly(tmp_path: Path, look: Dreamer, given: str, target: str) -> None:
    unit = 1000 if given == "a.mkv" else 90000
    steps = np.random.default_rng(3).integers(unit // 100, unit // 8, 17)
    pts = [0, *np.cumsum(steps).tolist()]
    source = write_video(tmp_path / given, clip_pictures(18), pts, time_base=Fraction(1, unit), options={"bf": "3"})
    job(source, tmp_path / target, look, segment_frames=7)
    exact = [Fraction(t, unit) for t in pts]
    if (given, target) == ("a.mp4", "b.mkv"):  # Matroska counts milliseconds
        assert max(abs(a - b) for a, b in zip(times(tmp_path / target), exact, strict=True)) <= Fraction(1, 2000)
    else:
        assert times(tmp_path / target) == exact
    assert strength(source, tmp_path / target) > 1


@pytest.mark.parametrize(("width", "height"), [(97, 54), (96, 55), (97, 55)])
@pytest.mark.parametrize("target", ["b.mp4", "b.webm", "b.gif"])
def test_odd_sizes_stay(tmp_path: Path, look: Dreamer, width: int, height: int, target: str) -> None:
    source = write_video(tmp_path / "a.mkv", clip_pictures(3, width, height), codec="ffv1", pix_fmt="bgr0")
    job(source, tmp_path / target, look, scale=0.77)
    assert [image.shape for _, image, _ in shown(tmp_path / target)] == [(height, width, 3)] * 3
    assert 0.5 < strength(source, tmp_path / target) < 25


@pytest.mark.parametrize(("width", "height"), [(7, 7), (8, 40), (96, 9), (13, 160), (160, 28)])
def test_very_small_and_narrow_videos(tmp_path: Path, look: Dreamer, width: int, height: int) -> None:
    source = write_video(tmp_path / "a.mkv", clip_pictures(4, width, height), codec="ffv1", pix_fmt="bgr0")
    for flow in ("dis-ultrafast", "dis-medium"):
        target = tmp_path / f"{flow}.mkv"
        dream_video(source, target, VideoDreamer(look, frame_steps=1, flow=flow))
        assert strength(source, target) > 0.5


def test_a_dream_at_a_smaller_size_is_delivered_at_the_sources(tmp_path: Path, look: Dreamer) -> None:
    source = write_video(tmp_path / "a.mp4", clip_pictures(4, 160, 90))
    for options, size in (({"scale": 0.5}, (45, 80)), ({"longest": 96}, (54, 96)), ({"longest": 999}, None)):
        dreamer = VideoDreamer(look, frame_steps=1)
        target = tmp_path / f"{next(iter(options.values()))}.mkv"
        dream_video(source, target, dreamer, encoding=LOSSLESS, **options)
        assert dreamer.size == size
        assert shown(target)[0][1].shape == (90, 160, 3)
        assert strength(source, target) > 1


# --- sound and all the rest -----------------------------------------------------------------------------------------


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
            frame = av.VideoFrame.from_ndarray(image, "bgr24").reformat(format="yuv420p", threads=1)
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


def chapters(path: Path) -> list[tuple[Fraction, str]]:
    with av.open(str(path)) as container:
        return [(c["start"] * c["time_base"], c["metadata"]["title"]) for c in container.chapters()]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_everything_beside_the_pictures_is_copied(tmp_path: Path, look: Dreamer, suffix: str) -> None:
    source, target = film(tmp_path / f"a{suffix}"), tmp_path / f"b{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job(source, target, look, segment_frames=9)
    for kind, count in (("audio", 2), ("subtitle", 1)):
        for number in range(count):
            copied = packets(target, kind, number)
            assert copied == packets(source, kind, number)
            assert len(copied) >= 2
    assert chapters(target) == chapters(source) == [(0, "one"), (Fraction(12, 25), "two")]
    with av.open(str(target)) as container:
        assert (container.metadata["title"], (container.metadata.get("artist") or container.metadata["ARTIST"])) == (
            "Film",
            "Blender",
        )
        assert [s.language for s in container.streams if s.type in ("audio", "subtitle")] == ["eng", "ger", "fre"]
    assert times(target) == times(source)
    assert strength(source, target) > 1


def flash(path: Path) -> Path:
    """Two seconds of dark and silence, but for frame 25 and the sound that goes with it."""
    return small.flash(path, frames=50, at=25, size=(96, 54), levels=(20, 235), keys=20)


def flash_times(path: Path) -> tuple[Fraction, float]:
    """When the light and when the sound of `flash` begin in a film, in seconds."""
    bright = next(time for time, image, _ in shown(path) if image.mean() > 128)
    return bright, small.loud_from(path)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("target", ["b.mov", "b.mkv"])
def test_a_part_of_a_film_stays_in_sync(tmp_path: Path, look: Dreamer, target: str, every: int) -> None:
    source, target = flash(tmp_path / "a.mov"), tmp_path / target
    job(
        source,
        target,
        look,
        start=Fraction(13, 25) - Fraction(1, 100),
        end=Fraction(8, 5),
        every=every,
        segment_frames=8,
    )
    assert times(target)[0] == 0
    assert len(times(target)) == 27
    light, sound = flash_times(target)
    assert light == Fraction(12, 25)
    assert abs(sound - float(light)) < 0.002
    with av.open(str(target)) as container:
        last = list(container.decode(audio=0))[-1]
        assert float(last.pts * last.time_base) < 1.09


def test_only_every_third_frame_takes_steps(tmp_path: Path, look: Dreamer) -> None:
    source = write_video(tmp_path / "a.mkv", clip_pictures(1) * 7, codec="ffv1", pix_fmt="bgr0")
    dreamer = VideoDreamer(look, frame_steps=1)
    measured: list[float] = []
    dream_video(
        source, tmp_path / "b.mkv", dreamer, encoding=LOSSLESS, every=3, on_frame=lambda p: measured.append(p.objective)
    )
    changes = [a != b for a, b in itertools.pairwise(measured)]
    assert changes == [False, False, True, False, False, True]  # each step measures anew
    assert strength(source, tmp_path / "b.mkv") > 1


# --- the encoder ----------------------------------------------------------------------------------------------------


def test_the_encoder_does_as_it_is_told(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", clip_pictures(12))
    encoders = {
        "b.mp4": ["--codec", "hevc", "--crf", "40", "--pix-fmt", "yuv444p"],
        "c.mp4": ["--codec", "hevc", "--crf", "5.5", "--pix-fmt", "yuv444p"],
        "d.mkv": ["--encoder-option", "g=4", "--encoder-option", "bf=0", "--encoder-option", "sc_threshold=0"],
    }
    for name, options in encoders.items():
        done = onnxdream("video", source, "-o", name, *LOOK, *options, folder=tmp_path)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    for name in ("b.mp4", "c.mp4"):
        with av.open(str(tmp_path / name)) as container:
            context: Any = container.streams.video[0].codec_context
            assert (context.name, context.pix_fmt) == ("hevc", "yuv444p")
    assert (tmp_path / "c.mp4").stat().st_size > 2 * (tmp_path / "b.mp4").stat().st_size
    with av.open(str(tmp_path / "d.mkv")) as container:
        coded = [p for p in container.demux(video=0) if p.size]
    assert [n for n, p in enumerate(coded) if p.is_keyframe] == [0, 4, 8]
    assert [p.pts for p in coded] == sorted(p.pts for p in coded)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--encoder-option", "nonsense=1"], "has no option nonsense"),
        (["--encoder-option", "preset=impossible"], "has no preset=impossible; it has ultrafast"),
        (["--codec", "hevc", "--encoder-option", "preset=impossible"], "libx265 refuses 320x180"),
        (["--encoder-option", "x264-params=foo=1"], "Error parsing option 'foo = 1'"),
        (["--codec", "hevc", "--encoder-option", "x265-params=foo=1"], "Unknown option: foo"),
        (["--encoder-option", "=3"], "key=value"),
        (["--codec", "vp9", "--pix-fmt", "yuv411p"], "yuv411p"),
        (["--codec", "vp9", "--crf", "99"], "crf=99"),
        (["--codec", "prores"], "prores_ks does not go into .mp4"),
        (["--crf", "good"], "--crf"),
    ],
)
def test_an_encoder_that_refuses_is_one_line(tmp_path: Path, options: list[str], says: str) -> None:
    done = onnxdream("video", CLIP, "-o", "b.mp4", *LOOK, *options, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert names(tmp_path) == []


def test_names_that_look_like_something_else(tmp_path: Path) -> None:
    """A colon like a protocol's, brackets like markup, and a line longer than the terminal is wide."""
    name = f"a:[red]{'x' * 80}.mp4"
    done = onnxdream("video", CLIP, "-o", name, *LOOK[:-1], "--end", "0.1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"{name} 3 frames in ")
    assert done.stderr.count("\n") == 1
    assert len(times(tmp_path / name)) == 3


# --- pictures and pipes ---------------------------------------------------------------------------------------------


def animation(path: Path, durations: list[int]) -> Path:
    from PIL import Image

    pictures = [Image.fromarray(i[..., ::-1]) for i in clip_pictures(len(durations))]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return path


@pytest.mark.parametrize(
    ("given", "target"),
    [("a.gif", "b.webp"), ("a.webp", "b.gif"), ("a.gif", "b.gif"), ("a.gif", "b.mp4"), ("a.webp", "b.mkv")],
)
def test_animated_pictures_in_and_out(tmp_path: Path, look: Dreamer, given: str, target: str) -> None:
    durations = [40, 70, 120, 20, 300, 90]
    source = animation(tmp_path / given, durations)
    job(source, tmp_path / target, look, segment_frames=4)
    begins = [Fraction(sum(durations[:n]), 1000) for n in range(6)]
    assert times(tmp_path / target) == begins
    assert strength(source, tmp_path / target) > 1
    if target in ("b.gif", "b.webp"):
        with open_source(tmp_path / target) as video:
            assert video.info.duration == Fraction(sum(durations), 1000)


def stills(folder: Path, count: int = 12, bits: int = 8) -> Path:
    folder.mkdir()
    for number, image in enumerate(clip_pictures(count)):
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32)
        write_picture(folder / f"p{number}.png", Picture(rgb, None, bits), {})
    return folder


@pytest.mark.parametrize("spec", ["in", "in/*.png", "in/p%d.png"])
@pytest.mark.parametrize("target", ["frames", "out_%03d.png", "out_%03d.jpg"])
def test_pictures_in_and_out(tmp_path: Path, look: Dreamer, nothing: Dreamer, spec: str, target: str) -> None:
    folder = stills(tmp_path / "in", bits=16)
    job(tmp_path / spec, tmp_path / target, look, segment_frames=5)
    found = sorted((tmp_path / "frames").iterdir()) if target == "frames" else sorted(tmp_path.glob("out_*"))
    assert [p.stem[-3:] for p in found] == [f"{n:03d}" for n in range(12)]
    for number, path in enumerate(found):  # p2 comes before p10
        dream, before = read_picture(path), read_picture(folder / f"p{number}.png")
        assert dream.bits == (8 if target.endswith(".jpg") else 16)
        assert 1 < np.abs(dream.rgb - before.rgb).mean() < 20
    assert [n for n in names(tmp_path) if n.startswith(".")] == []


def test_pictures_that_are_there_are_not_overwritten(tmp_path: Path, look: Dreamer) -> None:
    folder = stills(tmp_path / "in", 3)
    shutil.copytree(folder, tmp_path / "out")
    kept = (folder / "p0.png").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        job(folder, tmp_path / "out" / "p%d.png", look)
    assert (tmp_path / "out" / "p0.png").read_bytes() == kept
    job(folder, tmp_path / "out" / "p%d.png", look, overwrite=True)
    assert (tmp_path / "out" / "p0.png").read_bytes() != kept
    assert names(tmp_path / "out") == ["p0.png", "p1.png", "p2.png"]


@pytest.mark.parametrize("name", ["out", "out/f_%02d.png"])
def test_of_older_pictures_none_stays(tmp_path: Path, look: Dreamer, name: str) -> None:
    folder, out = stills(tmp_path / "in", 5), tmp_path / "out"
    out.mkdir()
    job(folder, tmp_path / name, look)
    (out / "notes.txt").write_text("mine")
    shutil.copy(folder / "p0.png", out / "mine.png")
    job(folder, tmp_path / name, look, overwrite=True, end=Fraction(2, 25))
    kinds = ["00000.png", "00001.png"] if name == "out" else ["f_00.png", "f_01.png"]
    assert names(out) == sorted([*kinds, "mine.png", "notes.txt"])


def test_a_percent_sign_in_the_name_of_pictures(tmp_path: Path, look: Dreamer) -> None:
    job(stills(tmp_path / "in", 2), tmp_path / "50%_f_%03d.png", look)
    assert names(tmp_path) == ["50%_f_000.png", "50%_f_001.png", "in"]
    assert len(times(tmp_path / "50%_f_%03d.png")) == 2


def test_nothing_is_put_in_the_place_of_the_source(tmp_path: Path, look: Dreamer) -> None:
    folder = stills(tmp_path / "in", 2)
    film, other = write_video(tmp_path / "a.mp4", clip_pictures(2)), write_video(tmp_path / "c.mp4", clip_pictures(2))
    (tmp_path / "link.mp4").symlink_to(film)
    text = tmp_path / "notes.txt"
    text.write_text("mine")
    before = {path: path.read_bytes() for path in (*folder.iterdir(), film, other, text)}
    for source, target in (
        (film, film),
        (film, tmp_path / "link.mp4"),
        (film, tmp_path / "in" / ".." / "a.mp4"),
        (folder, folder),
        (folder, folder / "p%d.png"),
        (folder / "*.png", folder),
    ):
        with pytest.raises(OutputError, match="is what the dream is made from"):
            job(source, target, look, overwrite=True)
    for source, preview, says in (
        (film, film, "made from"),
        (folder, folder / "p1.png", "made from"),
        (folder, folder / "new.jpg", "made from"),
        (film, tmp_path / "b.mp4", "where the result goes"),
        (film, other, "is no JPEG"),
        (film, text, "is no JPEG"),
        (film, tmp_path / "in", "is no JPEG"),
        (film, tmp_path / "no" / "a.jpg", "no folder"),
    ):
        with pytest.raises(OutputError, match=says):
            job(source, tmp_path / "b.mp4", look, preview=preview)
    assert {path: path.read_bytes() for path in before} == before
    for _ in range(2):  # an older preview may be replaced
        job(film, tmp_path / "b.mp4", look, preview=tmp_path / "now.jpg", overwrite=True)
    assert read_picture(tmp_path / "now.jpg").rgb.shape == (54, 96, 3)


def through(*commands: list[str], folder: Path) -> bytes:
    """What comes out of a shell-like pipeline, every part of which must succeed."""
    running: list[subprocess.Popen[bytes]] = []
    for each in commands:
        given = running[-1].stdout if running else subprocess.DEVNULL
        running.append(subprocess.Popen(each, cwd=folder, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        if len(running) > 1:
            running[-2].stdout.close()  # type: ignore[union-attr]
    out, _ = running[-1].communicate(timeout=120)
    for process in running:
        assert process.wait(timeout=60) == 0, process.stderr and process.stderr.read().decode()
        if process.stderr is not None:
            process.stderr.close()
    return out


@pytest.mark.skipif(not FFMPEG.exists(), reason="needs ffmpeg")
def test_between_two_real_ffmpegs(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", clip_pictures(12), options={"bf": "2"})
    quiet = [str(FFMPEG), "-nostdin", "-v", "error"]
    y4m = [*quiet, "-i", str(source), "-f", "yuv4mpegpipe", "-"]
    raw = [*quiet, "-i", str(source), "-f", "rawvideo", "-pix_fmt", "bgr24", "-"]
    write = [*quiet[:1], *quiet[2:], "-f", "yuv4mpegpipe", "-i", "-", "-c:v", "ffv1", "c.mkv"]
    through(y4m, command("video", "-", "-o", "-", *LOOK), write, folder=tmp_path)
    through(
        raw,
        command("video", "-", "--raw-size", "96x54", "--rate", "25", "-o", "d.mkv", "--codec", "ffv1", *LOOK),
        folder=tmp_path,
    )
    bare = through(y4m, command("video", "-", "-o", "-", "--codec", "rawvideo", *LOOK), folder=tmp_path)
    assert onnxdream("video", source, "-o", "b.mkv", "--codec", "ffv1", *LOOK, folder=tmp_path).returncode == 0
    direct = shown(tmp_path / "b.mkv")
    for name in ("c.mkv", "d.mkv"):
        piped = shown(tmp_path / name)
        assert [t for t, _, _ in piped] == [t for t, _, _ in direct]
        for (_, ours, _), (_, theirs, _) in zip(piped, direct, strict=True):
            assert psnr(ours, theirs) > (38 if name == "c.mkv" else 25)  # ffmpeg makes BGR of its own
    frames = np.frombuffer(bare, np.uint8).reshape(12, 54, 96, 3)
    for ours, (_, theirs, _) in zip(frames, direct, strict=True):
        assert psnr(ours, theirs) > 36  # y4m places chroma elsewhere
    assert names(tmp_path) == ["a.mp4", "b.mkv", "c.mkv", "d.mkv"]


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        command("video", CLIP, "-o", "-", *LOOK), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.read(9) == b"YUV4MPEG2"
    writer.stdout.close()
    stderr = writer.stderr.read().decode() if writer.stderr else ""
    assert writer.wait(timeout=60) == 1
    assert stderr.count("\n") <= 1, stderr
    assert "Traceback" not in stderr


def test_a_pipe_leaves_nothing_behind_however_it_ends(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        command("video", CLIP, "-o", "-", *LOOK),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert writer.stdout is not None
    assert writer.stdout.read(9) == b"YUV4MPEG2"
    writer.terminate()
    writer.communicate()
    assert writer.returncode == -signal.SIGTERM
    assert list(tmp_path.glob("onnxdream-*")) == []


def test_only_an_interrupt_is_said_to_be_one(tmp_path: Path) -> None:
    """Typer makes the end of an input, which is a fault of ours, look like Ctrl-C."""
    script = "from onnxdream.cli.app import app, main\n"
    script += "@app.command()\ndef fail():\n    raise EOFError('no data left')\nmain()"
    done = subprocess.run([sys.executable, "-c", script, "fail"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "EOFError: no data left" in done.stderr
    assert "interrupted" not in done.stderr


# --- trouble --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 800 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not shutil.which("mount"):
        pytest.skip("no small disk can be made here: there is no mount")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill_up(disk: Path) -> None:
    with (disk / "other").open("wb", buffering=0) as other, suppress(OSError):
        while other.write(bytes(4096)):
            pass


def test_a_full_disk_costs_only_the_unfinished_segment(tmp_path: Path, small_disk: Path, look: Dreamer) -> None:
    source, target = write_video(tmp_path / "a.mp4", clip_pictures(24, 128, 72)), small_disk / "b.mkv"
    options: dict[str, Any] = {"encoding": LOSSLESS, "segment_frames": 6}
    with pytest.raises(WriteError, match=r"No space left on device; \d+ frames are kept") as told:
        job(source, target, look, **options)
    assert "\n" not in str(told.value)
    kept = int(str(told.value).split("; ")[1].split()[0])
    assert kept >= 6
    assert names(small_disk) == [".b.mkv.onnxdream"]
    assert not [n for n in names(small_disk / ".b.mkv.onnxdream") if n.startswith(".")]
    with pytest.raises(WriteError, match="No space left on device"):  # still no room
        job(source, target, look, **options)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert job(source, target, look, **options).resumed_frames >= kept
    assert names(small_disk) == ["b.mkv"]
    job(source, tmp_path / "c.mkv", look, **options)
    assert_same_film(target, tmp_path / "c.mkv")


@pytest.mark.parametrize("filled", range(0, 24, 3))
def test_wherever_the_disk_is_full(tmp_path: Path, small_disk: Path, look: Dreamer, filled: int) -> None:
    """The disk is filled by something else after `filled` frames, to the last byte; once there is room, all is well."""
    source, target = write_video(tmp_path / "a.mp4", clip_pictures(24)), small_disk / "b.mp4"

    def fill(progress: Any) -> None:
        if progress.frame == filled + 1:
            fill_up(small_disk)

    with pytest.raises(WriteError, match="No space left on device") as told:
        job(source, target, look, segment_frames=6, on_frame=fill)
    assert "\n" not in str(told.value)
    assert not target.exists()
    (small_disk / "other").unlink()
    job(source, target, look, segment_frames=6)
    assert names(small_disk) == ["b.mp4"]
    job(source, tmp_path / "c.mp4", look, segment_frames=6)
    assert_same_film(target, tmp_path / "c.mp4")


def test_a_source_cut_off_goes_on_when_it_is_whole(tmp_path: Path, look: Dreamer) -> None:
    source, whole, target = tmp_path / "a.mkv", film(tmp_path / "whole.mkv"), tmp_path / "b.mkv"
    data = whole.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="damaged or cut off") as told, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        job(source, target, look, segment_frames=4)
    part = shown(target)
    assert f"ends there, with {len(part)} frames" in str(told.value)
    assert "--overwrite" in str(told.value)
    assert 4 < len(part) < 24
    assert packets(target, "audio")[-1][0] < len(part) / Fraction(25)
    assert names(tmp_path) == [".b.mkv.onnxdream", "a.mkv", "b.mkv", "whole.mkv"]
    shutil.copy(whole, source)
    result = job(source, target, look, segment_frames=4, overwrite=True)
    assert 0 < result.resumed_frames <= len(part)
    assert names(tmp_path) == ["a.mkv", "b.mkv", "whole.mkv"]
    job(whole, tmp_path / "c.mkv", look, segment_frames=4)
    assert_same_film(target, tmp_path / "c.mkv")
    assert packets(target, "audio", 1) == packets(tmp_path / "c.mkv", "audio", 1)


def test_a_picture_that_cannot_be_read(tmp_path: Path, look: Dreamer) -> None:
    folder, target = stills(tmp_path / "in"), tmp_path / "b.mkv"
    good = (folder / "p7.png").read_bytes()
    (folder / "p7.png").write_bytes(good[:200])
    for _ in range(2):  # the second finds the same damage
        with pytest.raises(VideoError, match=r"p7\.png.*frame 7 of") as told:
            job(folder, target, look, segment_frames=3, overwrite=True)
        assert len(times(target)) == 7
        assert "\n" not in str(told.value)
    (folder / "p7.png").write_bytes(good)
    assert job(folder, target, look, segment_frames=3, overwrite=True).resumed_frames == 6
    job(folder, tmp_path / "c.mkv", look, segment_frames=3)
    assert_same_film(target, tmp_path / "c.mkv")
    assert names(tmp_path) == ["b.mkv", "c.mkv", "in"]


def stopped(source: Path | str, target: Path, look: Dreamer, after: int, **options: Any) -> None:
    """A job that is cancelled after so many frames."""
    assert job(source, target, look, on_frame=lambda p: p.frame < after, **options).cancelled
    assert not target.exists()


def test_what_may_change_before_a_job_goes_on_and_what_not(tmp_path: Path, look: Dreamer) -> None:
    folder, target = stills(tmp_path / "in"), tmp_path / "b.mkv"
    options: dict[str, Any] = {"segment_frames": 3}
    stopped(folder, target, look, 8, **options)
    before = (tmp_path / ".b.mkv.onnxdream" / "manifest.jsonl").read_text()
    for change, name in (
        ({"source_options": {"rate": Fraction(12)}}, "format"),
        ({"segment_frames": 4}, "options"),
        ({"every": 2}, "options"),
        ({"encoding": LOSSLESS}, "encoding"),
        ({"scale": 0.9}, "options"),
    ):
        with pytest.raises(OptionError, match=rf"other settings is there \({name} changed\).*--restart"):
            job(folder, target, look, **{**options, **change})
    shutil.copy(folder / "p4.png", folder / "p1.png")
    with pytest.raises(OptionError, match=r"\(source changed\)"):
        job(folder, target, look, **options)
    assert (tmp_path / ".b.mkv.onnxdream" / "manifest.jsonl").read_text() == before
    shutil.rmtree(folder)
    stills(folder)  # the same pictures, but later, and one that was not dreamed yet is another
    shutil.copy(folder / "p1.png", folder / "p9.png")
    assert job(folder, target, look, **options).resumed_frames == 6
    job(folder, tmp_path / "c.mkv", look, **options)
    assert_same_film(target, tmp_path / "c.mkv")


def test_an_error_ends_every_stage(tmp_path: Path, squeezenet: Model) -> None:
    source = write_video(tmp_path / "a.mkv", clip_pictures(12, 24, 24), codec="ffv1", pix_fmt="bgr0")
    with pytest.raises(PictureError, match="24x24 is too small for fire6") as held:
        job(source, tmp_path / "b.mkv", Dreamer(squeezenet, l2("fire6")))
    assert held.value.__traceback__ is not None  # it still knows the stages' frames
    assert [t.name for t in threading.enumerate() if t.name.startswith("prefetch")] == []
    assert names(tmp_path) == ["a.mkv"]


def test_a_disk_that_is_full_from_the_beginning(tmp_path: Path, small_disk: Path, look: Dreamer) -> None:
    source = write_video(tmp_path / "a.mp4", clip_pictures(2))
    fill_up(small_disk)
    with pytest.raises(WriteError, match="No space left on device"):
        job(source, small_disk / "b.mp4", look)
    assert names(small_disk) == ["other"]


def test_a_timeline_goes_by_the_films_own_clock(tmp_path: Path, look: Dreamer) -> None:
    """A transport stream's clock begins anywhere; its first frame is at 0 all the same."""
    source = tmp_path / "a.ts"
    write_video(source, clip_pictures(12), container_options={"output_ts_offset": "5"})
    asked: list[Fraction] = []

    def at(time: Fraction) -> Dreamer:
        asked.append(time)
        return look

    job(source, tmp_path / "b.mp4", look, timeline=at)
    assert [round(time * 25) for time in asked] == list(range(12))


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks")
def test_two_runs_of_one_job_do_not_mix(tmp_path: Path, look: Dreamer) -> None:
    source, target = write_video(tmp_path / "a.mp4", clip_pictures(12)), tmp_path / "b.mp4"

    def again(progress: Any) -> None:
        if progress.frame == 8:
            for options in ({}, {"resume": False}):
                other = onnxdream(
                    "video", source, "-o", "b.mp4", *LOOK, *(["--restart"] if options else []), folder=tmp_path
                )
                assert (other.returncode, other.stderr.count("\n")) == (2, 1)
                assert "another run is making it" in other.stderr

    assert job(source, target, look, segment_frames=3, on_frame=again).frames == 12
    assert len(times(target)) == 12
    assert names(tmp_path) == ["a.mp4", "b.mp4"]


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def one_bit_turned(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def line_changed(number: int, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        assert old in lines[number]
        lines[number] = lines[number].replace(old, new, 1)
        path.write_bytes(b"".join(lines))

    return change


@pytest.mark.parametrize(
    ("name", "damage", "kept"),
    [
        ("segment-00002", emptied, 6),
        ("segment-00002", cut_short, 6),
        ("segment-00002", one_bit_turned, 6),
        ("segment-00002", Path.unlink, 6),
        ("segment-00001", one_bit_turned, 0),  # no state is kept to go on from before it
        ("state-00002.npz", emptied, 6),
        ("state-00002.npz", one_bit_turned, 6),
        ("manifest.jsonl", line_changed(3, b"segment", b"segm\xffnt"), 6),
        ("manifest.jsonl", line_changed(3, b'"frames"', b'"framse"'), 6),
        ("manifest.jsonl", line_changed(3, b'"frames": 3', b'"frames": "3"'), 6),
        ("manifest.jsonl", line_changed(3, b"{", b""), 6),
        ("manifest.jsonl", line_changed(0, b"{", b"\xff"), 0),
    ],
)
def test_what_is_damaged_is_dreamed_again(
    tmp_path: Path, look: Dreamer, name: str, damage: Callable[[Path], None], kept: int
) -> None:
    source, target = write_video(tmp_path / "a.mp4", clip_pictures(16)), tmp_path / "b.mp4"
    stopped(source, target, look, 11, segment_frames=3)
    damage(tmp_path / ".b.mp4.onnxdream" / name)
    with pytest.warns(UserWarning, match=f"parts of the unfinished job are damaged; {kept} frames are kept") as told:
        result = job(source, target, look, segment_frames=3)
    assert len(told) == 1
    assert (result.resumed_frames, result.frames) == (kept, 16)
    job(source, tmp_path / "c.mp4", look, segment_frames=3)
    assert_same_film(target, tmp_path / "c.mp4")


def test_parts_that_do_not_depend_on_each_other_are_kept(tmp_path: Path, look: Dreamer) -> None:
    source, target = write_video(tmp_path / "a.mp4", clip_pictures(16)), tmp_path / "b.mp4"
    options = {"segment_frames": 4, "overlap": 2}
    stopped(source, target, look, 15, **options)
    (tmp_path / ".b.mp4.onnxdream" / "plan.json").write_text("{}")
    emptied(tmp_path / ".b.mp4.onnxdream" / "segment-00001")
    with pytest.warns(UserWarning, match="8 frames are kept"):
        result = job(source, target, look, **options)
    assert (result.resumed_frames, result.frames) == (8, 16)
    job(source, tmp_path / "c.mp4", look, **options)
    assert_same_film(target, tmp_path / "c.mp4")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="files are told by their numbers on Linux")
def test_what_the_manifest_names_is_on_the_disk_before(
    tmp_path: Path, look: Dreamer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_video(tmp_path / "a.mp4", clip_pictures(6))
    synced: list[str] = []

    def noting(number: int, sync: Callable[[int], None] = os.fsync) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        sync(number)

    monkeypatch.setattr(os, "fsync", noting)
    job(source, tmp_path / "b.mp4", look, segment_frames=3)
    kinds = [re.sub(r"\.onnxdream-\w+(\.\w+)$", r"new\1", name) for name in synced]
    folder, manifest, both = ".b.mp4.onnxdream", "manifest.jsonl", tmp_path.name
    begun = [manifest, folder, both]
    first = [".segment-00000.part", "new.npz", folder, manifest]
    last = [".segment-00001.part", folder, manifest]
    assert kinds == [*begun, *first, *last, "new.mp4", both]


@pytest.mark.parametrize("options", [{"start": Fraction(60)}, {"start": Fraction(1, 5), "end": Fraction(1, 5)}])
def test_a_job_without_a_frame_leaves_nothing(tmp_path: Path, look: Dreamer, options: dict[str, Any]) -> None:
    with pytest.raises(OnnxDreamError, match="no frame in that range"):
        job(CLIP, tmp_path / "b.mp4", look, **options)
    assert names(tmp_path) == []


def resumed_while_nothing_moves(tmp_path: Path, look: Dreamer) -> Iterable[float]:
    source = write_video(tmp_path / "a.mkv", clip_pictures(1) * 12, codec="ffv1", pix_fmt="bgr0")
    for name in ("b.mkv", "c.mkv"):
        if name == "b.mkv":
            stopped(source, tmp_path / name, look, 8, segment_frames=3, every=50)
        yield job(source, tmp_path / name, look, segment_frames=3, every=50).objective


def test_the_objective_survives_an_interruption(tmp_path: Path, look: Dreamer) -> None:
    resumed, whole = resumed_while_nothing_moves(tmp_path, look)
    assert resumed == pytest.approx(whole)


KILLED_AT_FRAME_13 = """
import os, signal, sys
from fractions import Fraction
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from test_video_streams import LOSSLESS, job, new_look
from onnxdream.networks.model import load_model

def kill(progress):
    if progress.frame == 13:
        os.kill(os.getpid(), signal.SIGKILL)

job(Path("a.mov"), Path("b.mkv"), new_look(load_model("squeezenet1_1")), encoding=LOSSLESS, segment_frames=5,
    start=Fraction(2, 5), end=Fraction(9, 5), on_frame=kill)
"""


def test_a_killed_part_of_a_film_goes_on_in_sync(
    tmp_path: Path, look: Dreamer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flash(Path("a.mov"))
    script = [sys.executable, "-c", KILLED_AT_FRAME_13, str(DATA.parent), str(Path(__file__).parent)]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    assert names(tmp_path) == [".b.mkv.onnxdream", "a.mov"]
    options: dict[str, Any] = {"encoding": LOSSLESS, "start": Fraction(2, 5), "end": Fraction(9, 5)}
    assert job(Path("a.mov"), Path("b.mkv"), look, segment_frames=5, **options).resumed_frames == 10
    job(Path("a.mov"), Path("c.mkv"), look, segment_frames=5, **options)
    assert_same_film(Path("b.mkv"), Path("c.mkv"))
    assert packets(Path("b.mkv"), "audio") == packets(Path("c.mkv"), "audio")
    light, sound = flash_times(Path("b.mkv"))
    assert light == Fraction(3, 5)
    assert abs(sound - float(light)) < 0.002
    assert names(tmp_path) == ["a.mov", "b.mkv", "c.mkv"]


KILL_WHILE_FINISHING = """
import os, signal, sys, warnings
from onnxdream.cli.app import main
sys.argv = ["onnxdream", *sys.argv[1:]]
import onnxdream.cli.app as app
app._show_warning = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


def test_killed_while_the_film_is_put_together(tmp_path: Path) -> None:
    """The first note, that subtitles are left out, comes when the result is already open; there the job dies."""
    film(tmp_path / "a.mkv")
    options = ["video", "a.mkv", "-o", "b.mp4", *LOOK[:-1], "--segment-frames", "9"]
    killed = subprocess.run([sys.executable, "-c", KILL_WHILE_FINISHING, *options], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".b.mp4.onnxdream", "a.mkv"]
    record = json.loads(onnxdream(*options, "--json", folder=tmp_path).stdout)
    assert (record["resumed_frames"], record["frames"]) == (24, 24)
    assert names(tmp_path) == ["a.mkv", "b.mp4"]
    copied, there = (packets(tmp_path / name, "audio", 1) for name in ("b.mp4", "a.mkv"))
    assert [(time, data) for time, _, data in copied] == [(time, data) for time, _, data in there]
