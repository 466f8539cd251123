"""Colour stays where it is: what a dream does not change comes back plane by plane, however often a film goes through.

Colour that moves by half a pixel, from one idea of where chroma's samples lie to another:
AviSynth/AviSynthPlus#48, obsproject/obs-studio#1918.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.films import (
    BT601,
    BT709,
    BT2020,
    FFV1,
    convert,
    encode,
    frames_of,
    info_of,
    planes_film,
    planes_of,
    write_video,
)
from helpers.jobs import job
from onnxdream.dream.dreamer import Dreamer
from onnxdream.video.io.color import WEIGHTS
from onnxdream.video.io.open import ColorTags, Encoding, open_source

EDGE = (184, 184, 184, 184, 151, 119)
FULL, LIMITED = 2, 1


def film_of(path: Path, pix_fmt: str, siting: str, tags: ColorTags, *, width: int = 48, height: int = 32) -> Path:
    """Two frames of noise, legal and illegal codes alike, above an edge of colour."""
    depth = int(pix_fmt.partition("p")[2].removesuffix("le") or 8)
    across, down = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}[pix_fmt[3:6]]
    random, kind = np.random.default_rng(3), np.uint8 if depth == 8 else np.uint16
    frames = []
    for _ in range(2):
        sizes = [(height, width), *[(-(-height // down), -(-width // across))] * 2]
        planes = [random.integers(0, 1 << depth, size).astype(kind) for size in sizes]
        for plane in planes:
            lower = plane[plane.shape[0] // 2 :]
            lower[:] = EDGE[-1] << (depth - 8)
            lower[:, : len(EDGE)] = np.array(EDGE) << (depth - 8)
        frames.append(planes)
    return planes_film(path, frames, pix_fmt, siting, tags)


def assert_same_planes(first: Path, second: Path) -> None:
    ours, theirs = planes_of(first), planes_of(second)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one, other)


SITED = [("yuv420p", siting) for siting in ("left", "center", "topleft", "top")]
WHOLE = [("yuv422p", "left"), ("yuv444p", "left")]
CASES = [
    (name + ending, siting, tag_range, matrix)
    for matrix, tag_range in ((BT709, LIMITED), (BT601, FULL), (BT2020, LIMITED), (BT601, LIMITED), (BT709, FULL))
    for ending in ("", "10le", "12le", "16le")
    for name, siting in SITED + WHOLE
]


@pytest.mark.parametrize(("pix_fmt", "siting", "tag_range", "matrix"), everyday(CASES, 17))
def test_colour_stays_however_often_my_film_goes_through(
    tmp_path: Path, pix_fmt: str, siting: str, tag_range: int, matrix: int
) -> None:
    tags = ColorTags(matrix, 1, matrix, tag_range)
    source = film_of(tmp_path / "0.mkv", pix_fmt, siting, tags)
    for number in range(1, 6):
        convert(tmp_path / f"{number - 1}.mkv", tmp_path / f"{number}.mkv", encoding=FFV1)
    assert_same_planes(source, tmp_path / "5.mkv")
    with open_source(source) as before, open_source(tmp_path / "5.mkv") as after:
        assert (after.info.pix_fmt, after.info.siting, after.info.color) == (pix_fmt, siting, tags)
        assert before.info.siting == siting


@pytest.mark.parametrize(("suffix", "codec", "options"), everyday([
    (".mp4", None, {"crf": "0"}), (".webm", None, {"lossless": "1", "crf": "0"}),
    (".mkv", "hevc", {"x265-params": "lossless=1"}), (".mov", "h264", {"crf": "0"}),
], 2))  # fmt: skip
@pytest.mark.parametrize("siting", everyday(["topleft", "left", "center"], 3))
def test_every_container_says_where_colour_lies(
    tmp_path: Path, suffix: str, codec: str | None, options: dict[str, str], siting: str
) -> None:
    source = film_of(tmp_path / "0.mkv", "yuv420p", siting, ColorTags(1, 1, 1, 1))
    encoding = Encoding(codec=codec, options=options)
    first = convert(source, tmp_path / f"1{suffix}", encoding=encoding)
    second = convert(first, tmp_path / f"2{suffix}", encoding=encoding)
    assert_same_planes(source, first)
    assert_same_planes(source, second)
    with open_source(second) as video:
        assert video.info.siting == siting


def test_odd_sizes_and_a_whole_job(tmp_path: Path, nothing: Dreamer) -> None:
    source = film_of(tmp_path / "0.mkv", "yuv420p", "topleft", ColorTags(), width=97, height=65)
    job(source, tmp_path / "1.mkv", nothing, encoding=FFV1)
    assert_same_planes(source, tmp_path / "1.mkv")


@pytest.mark.parametrize("siting", ["left", "center", "topleft", "top"])
def test_colour_is_read_from_where_it_lies(tmp_path: Path, siting: str) -> None:
    """Ramps of colour: what a pixel shows tells where chroma's samples are taken to be."""
    y, x = np.mgrid[:24, :24]
    planes = [np.full((48, 48), 128), 90 + 3 * x, 90 + 3 * y]
    film = planes_film(
        tmp_path / "a.mkv", [[p.astype(np.uint8) for p in planes]], "yuv420p", siting, ColorTags(1, 1, 1, 1)
    )
    image = frames_of(film)[0].image.astype(np.float64)
    red, blue = WEIGHTS[BT709]
    luma = image @ (red, 1 - red - blue, blue)
    cb = 128 + (image[:, :, 2] - luma) / (2 - 2 * blue) * 224 / 255
    cr = 128 + (image[:, :, 0] - luma) / (2 - 2 * red) * 224 / 255
    left = 0.5 if siting in ("center", "top") else 0
    top = {"left": 0.5, "center": 0.5, "topleft": 0, "top": 0}[siting]
    inner = np.arange(8, 40)
    np.testing.assert_allclose(cb[20, inner], 90 + 1.5 * (inner - left), atol=1)
    np.testing.assert_allclose(cr[inner, 20], 90 + 1.5 * (inner - top), atol=1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
def test_an_edge_of_pictures_stays_where_it_is(tmp_path: Path, siting: str, turned: bool) -> None:
    """Chroma that is halved anew: as much red on the one side of the edge as before."""
    image = np.full((48, 64, 3), (90, 120, 90), np.uint8)
    image[:, :31] = (160, 90, 90)
    image = np.ascontiguousarray(image.swapaxes(0, 1)) if turned else image
    height, width = image.shape[:2]
    info = info_of(width, height, chroma=(2, 2), siting=siting)
    path = encode([(image, 0)], info, tmp_path / "a.mkv", encoding=FFV1)
    with open_source(path) as video:
        assert video.info.siting == siting
    back = frames_of(path)[0].image.astype(np.float64)
    moved = (back[:, :, 0] - image[:, :, 0]).sum() / (height if not turned else width) / (160 - 90)
    assert abs(moved) < 0.06  # in pixels


def test_what_changes_is_added_to_what_was_there(tmp_path: Path) -> None:
    """A patch of another colour leaves the planes around it alone, and gets that colour itself."""
    source = film_of(tmp_path / "0.mkv", "yuv420p", "left", ColorTags(1, 1, 1, 1), width=64, height=64)
    with open_source(source) as video:
        frames = list(video.frames())
        painted = []
        for frame in frames:
            image = frame.image.copy()
            image[40:56, 32:56] = (100, 140, 120)
            painted.append((image, frame.pts, None, frame))
        result = encode(painted, video.info, tmp_path / "1.mkv", encoding=FFV1)
    for before, after in zip(planes_of(source), planes_of(result), strict=True):
        np.testing.assert_array_equal(before[0][:40], after[0][:40])
        for number in (1, 2):
            np.testing.assert_array_equal(before[number][:16], after[number][:16])
            np.testing.assert_array_equal(before[number][:, :12], after[number][:, :12])
    patch = frames_of(result)[0].image[44:52, 38:50].astype(int)
    assert np.abs(patch - (100, 140, 120)).max() <= 2


def test_a_turned_film_keeps_its_colours(tmp_path: Path) -> None:
    image = np.full((48, 64, 3), (90, 120, 90), np.uint8)
    image[:, :31] = (160, 90, 90)
    options = {"crf": "0"}
    source = write_video(tmp_path / "a.mp4", [image], options=options, setup=lambda s: s.set_display_rotation(90))
    shown = frames_of(source)[0].image
    result = frames_of(convert(source, tmp_path / "b.mp4", encoding=Encoding(options=options)))[0].image
    assert shown.shape == (64, 48, 3)
    assert np.abs(shown.astype(int) - result).mean() < 1
