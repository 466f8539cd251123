"""Interlaced recordings: no combed lines in what comes out, or, where asked for, fields that stay fields.

Combed lines of DVDs in the results of other tools: k4yt3x/video2x#898, TNTwise/REAL-Video-Enhancer#107.
"""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.filter import Graph

from helpers.breadth import everyday
from helpers.command_line import onnxdream
from helpers.films import (
    FFV1,
    convert,
    digest,
    encode,
    frames_of,
    interlaced_film,
    picture,
    psnr,
    woven,
    write_video,
)
from helpers.jobs import LOOK, assert_same_film, job, stopped
from helpers.notes import noted, notes
from onnxdream.dream.dreamer import Dreamer
from onnxdream.video.io.color import to_eight_bit
from onnxdream.video.io.interlace import Deinterlacer, field_order
from onnxdream.video.io.open import Encoding, open_source
from onnxdream.video.live.capture import open_feed


def moments(count: int, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """Pictures 1/50 s apart of a bright square that crosses a smooth picture."""
    images = []
    for number in range(count):
        image = picture(0, width, height) // 3
        left = 4 + 4 * number % 60
        image[16:48, left : left + 24] = (230, 220, 200)
        images.append(image)
    return images


def combed(image: np.ndarray) -> float:
    """How much each line differs from its two neighbours."""
    lines = image.astype(np.float64).mean(2)
    return float(np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).mean())


def orders(path: Path) -> set[str]:
    """How the frames are marked: "tff", "bff" or, for progressive ones, not at all."""
    with av.open(str(path)) as container:
        return set(map(field_order, container.decode(video=0)))


@pytest.mark.parametrize(("order", "suffix", "codec"), everyday([
    ("tff", "mp4", "libx264"), ("bff", "mkv", "libx264"), ("tff", "ts", "libx264"), ("bff", "ts", "mpeg2video"),
], 2))  # fmt: skip
def test_my_old_recording_has_no_comb_lines(tmp_path: Path, order: str, suffix: str, codec: str) -> None:
    truth = moments(24)
    path = interlaced_film(tmp_path / f"a.{suffix}", truth, order, codec)
    with noted("is interlaced; its frames are deinterlaced") as told:
        frames = frames_of(path)
    assert len(told) == 1
    assert [f.index for f in frames] == list(range(12))
    assert {b.pts - a.pts for a, b in pairwise(frames)} == {frames[1].pts - frames[0].pts}
    kept = frames_of_kept(path)
    for number in range(1, 11):
        shown = truth[2 * number]  # the earlier field stays, the later one is made to fit
        assert combed(kept[number]) > 3 * combed(shown)
        assert combed(frames[number].image) < 1.6 * combed(shown)
        assert psnr(frames[number].image, shown) > psnr(kept[number], shown) + 3


def frames_of_kept(path: Path) -> list[np.ndarray]:
    with open_source(path, interlaced="keep") as video:
        return [f.image for f in video.frames()]


def test_progressive_frames_of_a_mixed_film_are_left_alone(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "a.mp4", moments(6))
    with notes() as told:
        frames = frames_of(plain)
    assert not told
    with av.open(str(plain)) as container:
        decoded = [f.to_ndarray(format="gray") for f in container.decode(video=0)]
    assert len(frames) == len(decoded) == 6


def test_any_interlaced_frame_can_be_begun_at(tmp_path: Path) -> None:
    path = interlaced_film(tmp_path / "a.mp4", moments(200, 64, 48))
    everything = frames_of(path)
    with open_source(path) as video:
        for place in (60, 72, 84, 99):
            assert digest(next(video.frames(skip_to=place))) == digest(everything[place])
        late = next(video.frames(start=Fraction(72, 25)))
        assert (late.index, digest(late)) == (72, digest(everything[72]))
        *_, last = video.frames(end=Fraction(30, 25))
        assert (last.index, digest(last)) == (29, digest(everything[29]))


def test_a_job_on_an_interlaced_film_goes_on_where_it_stopped(tmp_path: Path, look: Dreamer) -> None:
    path = interlaced_film(tmp_path / "a.mp4", moments(32))
    options = {"encoding": FFV1, "segment_frames": 5}
    job(path, tmp_path / "whole.mkv", look, **options)
    stopped(path, tmp_path / "parts.mkv", look, 8, **options)
    assert job(path, tmp_path / "parts.mkv", look, **options).resumed_frames > 0
    assert_same_film(tmp_path / "whole.mkv", tmp_path / "parts.mkv")


def test_the_fields_are_kept_when_asked_for(tmp_path: Path) -> None:
    path = interlaced_film(tmp_path / "a.mp4", moments(12), "bff")
    done = onnxdream("video", path, "-o", tmp_path / "b.mp4", "--interlaced", "keep", *LOOK)
    assert (done.returncode, done.stderr) == (0, "")
    assert orders(tmp_path / "b.mp4") == {"bff"}
    wrong = onnxdream("video", path, "-o", tmp_path / "c.mp4", "--interlaced", "weave", *LOOK)
    assert wrong.returncode == 2
    assert "one of deinterlace, keep" in wrong.stderr


@pytest.mark.parametrize(("target", "codec", "order"), everyday([
    ("b.mov", "prores", "tff"), ("b.mkv", "ffv1", "bff"), ("b.mp4", None, "tff"), ("b.mkv", None, "bff"),
], 2))  # fmt: skip
def test_kept_fields_are_marked_and_where_they_were(tmp_path: Path, target: str, codec: str | None, order: str) -> None:
    truth = moments(16)
    path = interlaced_film(tmp_path / "a.mkv", truth, order)
    with open_source(path, interlaced="keep") as video, notes() as told:
        assert video.info.field_order == order
        frames = [(f.image, f.pts, None) for f in video.frames()]
        result = encode(frames, video.info, tmp_path / target, encoding=Encoding(codec=codec), cuts=(3,), source=path)
    assert not told
    assert orders(result) == {order}
    for number, image in enumerate(frames_of_kept(result)):
        assert psnr(to_eight_bit(image), woven(truth, number, 0 if order == "tff" else 1)) > 25


def test_what_cannot_be_marked_is_said(tmp_path: Path) -> None:
    path = interlaced_film(tmp_path / "a.mkv", moments(6))
    with open_source(path, interlaced="keep") as video, noted(r"b\.webm: cannot be marked as interlaced"):
        encode(((f.image, f.pts, None) for f in video.frames()), video.info, tmp_path / "b.webm")


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
@pytest.mark.parametrize(("filters", "rate", "telecined"), [
    ("telecine=pattern=23", "24000/1001", True), ("interlace", "60000/1001", False),
])  # fmt: skip
def test_telecined_film_is_only_noted(tmp_path: Path, filters: str, rate: str, telecined: bool) -> None:
    path = tmp_path / "a.mkv"
    source = ["-f", "lavfi", "-i", f"testsrc2=size=160x96:rate={rate}:duration=2"]
    options = ["-vf", filters, "-c:v", "libx264", "-flags", "+ildct+ilme", str(path)]
    subprocess.run(["ffmpeg", "-v", "error", *source, *options], check=True)
    with notes() as told:
        assert len(frames_of(path)) in (59, 60)
    assert any("is interlaced" in text for text in told)
    assert any("is telecined film" in text for text in told) == telecined


def test_an_interlaced_film_played_live_has_no_comb_lines(tmp_path: Path) -> None:
    truth = moments(120)
    path = interlaced_film(tmp_path / "a.mp4", truth)
    for address in (str(path), f"file://{path}"):  # a file, and a stream
        with noted("is interlaced"):
            _, image, *_ = islice(open_feed(address).images(), 3)
        assert combed(image) < 1.6 * combed(truth[2])


def test_a_deinterlaced_film_keeps_its_rate(tmp_path: Path) -> None:
    path = interlaced_film(tmp_path / "a.mp4", moments(20))
    result = convert(path, tmp_path / "b.mp4")
    with av.open(str(result)) as container:
        assert container.streams.video[0].average_rate == 25
        assert container.streams.video[0].frames == 10
    assert orders(result) == {""}


@pytest.mark.parametrize("pix_fmt", ["uyvy422", "yuva444p12le", "rgb24", "yuvj420p"])
def test_what_does_not_move_stays_as_it_is_in_any_format(pix_fmt: str) -> None:
    still = av.VideoFrame.from_ndarray(picture(0), "rgb24").reformat(format=pix_fmt, threads=1)
    still.color_range = 2
    graph = Graph()
    source = graph.add_buffer(width=64, height=48, format=still.format, time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("setfield", "tff"), graph.add("buffersink")).configure()
    frames = []
    for number in range(4):
        still.pts = number
        graph.vpush(still)
        frames.append(graph.vpull())
    told: list[str] = []
    _, *progressive = Deinterlacer(None, told.append)((frame, n) for n, frame in enumerate(frames))
    assert told == ["interlaced"]
    assert [number for _, number in progressive] == [1, 2, 3]
    for frame, _ in progressive:
        assert (frame.format.name, frame.color_range) == (pix_fmt, 2)
        for ours, theirs in zip(frame.planes, still.planes, strict=True):
            rows = [np.frombuffer(memoryview(p), np.uint8).reshape(p.height, -1)[:, :32] for p in (ours, theirs)]
            np.testing.assert_array_equal(*rows)
