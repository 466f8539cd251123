"""Whole jobs on films of every format: opacity, depth, orientation, rate and size."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.films import psnr, write_video
from helpers.jobs import LOSSLESS, clip_pictures, job, shown, strength, times
from onnxdream.dream.dreamer import Dreamer
from onnxdream.video.dreamer import VideoDreamer
from onnxdream.video.io.open import open_source
from onnxdream.video.job.job import dream_video


def see_through(path: Path) -> Path:
    """A video whose opaque left part grows from frame to frame."""
    webm = path.suffix == ".webm"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libvpx-vp9" if webm else "png", 25, options={"auto-alt-ref": "0"} if webm else {})
        stream.width, stream.height, stream.pix_fmt = 96, 54, "yuva420p" if webm else "rgba"
        for number, image in enumerate(clip_pictures()):
            alpha = np.where(np.arange(96) < 16 + 6 * number, 255, 40).astype(np.uint8)
            rgba = np.dstack([image, np.tile(alpha, (54, 1))])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgba), "rgba").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("given", "wanted"),
    everyday([("a.mov", "b.mov"), ("a.webm", "b.webm"), ("a.mov", "b.webm"), ("a.mov", "frames")], 2),
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


@pytest.mark.parametrize("target", everyday(["b.mp4", "b.mkv", "b.webm"], 3))
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


@pytest.mark.parametrize("degrees", everyday([90, 180, 270], 3))
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
    everyday([("a.mp4", "b.mp4"), ("a.mp4", "b.mov"), ("a.mkv", "b.mp4"), ("a.mkv", "b.mkv"), ("a.mp4", "b.mkv")], 2),
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


@pytest.mark.parametrize(("width", "height"), everyday([(97, 54), (96, 55), (97, 55)], 2))
@pytest.mark.parametrize("target", ["b.mp4", "b.webm", "b.gif"])
def test_odd_sizes_stay(tmp_path: Path, look: Dreamer, width: int, height: int, target: str) -> None:
    source = write_video(tmp_path / "a.mkv", clip_pictures(3, width, height), codec="ffv1", pix_fmt="bgr0")
    job(source, tmp_path / target, look, scale=0.77)
    assert [image.shape for _, image, _ in shown(tmp_path / target)] == [(height, width, 3)] * 3
    assert 0.5 < strength(source, tmp_path / target) < 25


@pytest.mark.parametrize(("width", "height"), everyday([(7, 7), (8, 40), (96, 9), (13, 160), (160, 28)], 2))
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
