"""Folders of pictures and animated pictures, as sources and as results."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from helpers.films import SETTINGS, convert, encode, frames_of, info_of, picture, psnr, times_of
from onnxdream.errors import VideoError
from onnxdream.images import Picture, write_picture
from onnxdream.video.io.open import open_source, read_video_settings


def test_pictures_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10, 9):
        cv2.imwrite(str(tmp_path / f"f{number}.png"), np.full((20, 30, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    for spec in (tmp_path, tmp_path / "*.png", tmp_path / "f%d.png"):
        frames = frames_of(spec)
        assert [int(f.image[0, 0, 0]) for f in frames] == [1, 2, 9, 10]
        assert [f.pts for f in frames] == [0, 1, 2, 3]
    with open_source(tmp_path, rate=Fraction(30000, 1001)) as video:
        assert (video.info.rate, video.info.time_base) == (Fraction(30000, 1001), Fraction(1001, 30000))
        assert (video.info.frames, video.info.duration) == (4, 4 * Fraction(1001, 30000))
        assert [f.index for f in video.frames(start=Fraction(1, 30), end=Fraction(1, 10))] == [1, 2]
        assert [f.index for f in video.frames(skip_to=3)] == [3]


def test_a_number_pattern_wants_its_digits(tmp_path: Path) -> None:
    for name in ("a_0003.png", "a_0001.png", "a_2.png", "b_0002.png"):
        cv2.imwrite(str(tmp_path / name), picture(0))
    with open_source(tmp_path / "a_%04d.png") as video:
        assert video.info.frames == 2


def test_pictures_keep_depth_and_opacity(tmp_path: Path) -> None:
    deep = picture(3, deep=True).astype(np.float32) / 257
    opacity = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (48, 1))
    write_picture(tmp_path / "a.png", Picture(deep, opacity, bits=16))
    write_picture(tmp_path / "b.png", Picture(deep, None, bits=8))
    first, second = frames_of(tmp_path)
    assert first.image.dtype == np.uint16
    assert np.abs(first.image.astype(int) - picture(3, deep=True)).max() <= 1
    assert first.alpha is not None
    assert np.abs(first.alpha / 65535 - opacity).max() < 1e-4
    assert second.alpha is not None
    assert second.alpha.min() == 65535


def test_a_picture_of_another_size_or_damaged_is_named(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    cv2.imwrite(str(tmp_path / "3.png"), picture(3, width=60))
    with open_source(tmp_path) as video, pytest.raises(VideoError, match=r"3\.png: is 60x48; .* 64x48"):
        list(video.frames())
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:500])
    seen = []
    with open_source(tmp_path) as video, pytest.raises(VideoError, match=r"1\.png.*frame 1 of"):
        for frame in video.frames():
            seen.append(frame.index)
    assert seen == [0]


@pytest.mark.parametrize(("suffix", "unit", "durations"), [(".gif", 100, [40, 70, 120, 20, 3000]),
                                                           (".webp", 1000, [33, 34, 41, 7, 2999])])  # fmt: skip
def test_animated_pictures_have_exact_times(tmp_path: Path, suffix: str, unit: int, durations: list[int]) -> None:
    from PIL import Image

    images = [Image.fromarray(np.full((20, 30, 3), 50 * n, np.uint8)) for n in range(5)]
    path = tmp_path / f"a{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, lossless=True)
    with open_source(path) as video:
        frames = list(video.frames())
        info = video.info
        assert [f.index for f in video.frames(start=Fraction(1, 10), end=Fraction(12, 100))] == (
            [2] if suffix == ".gif" else [3, 4]
        )
        assert [f.index for f in video.frames(skip_to=3)] == [3, 4]
    starts = [sum(durations[:n]) for n in range(5)]
    assert info.time_base == Fraction(1, unit)
    assert [f.pts * info.time_base for f in frames] == [Fraction(s, 1000) for s in starts]
    assert info.duration == Fraction(sum(durations), 1000)
    assert [int(f.image[3, 3, 1]) for f in frames] == [0, 50, 100, 150, 200]
    # The last picture stays as long in a video.
    result = convert(path, tmp_path / "b.mp4")
    assert times_of(result) == [Fraction(s, 1000) for s in starts]
    with av.open(str(result)) as container:
        assert container.streams.video[0].duration * container.streams.video[0].time_base == info.duration


def test_an_animation_cut_off(tmp_path: Path) -> None:
    path = encode(((picture(n), n, None) for n in range(10)), info_of(), tmp_path / "a.gif")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    seen = []
    with open_source(path) as video, pytest.raises(VideoError, match="cut off at"):
        for frame in video.frames():
            seen.append(frame.index)
    assert 4 <= len(seen) <= 8


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animated_results(tmp_path: Path, suffix: str) -> None:
    times = [0, 1, 3, 4, 8, 9]
    info = info_of(duration=Fraction(12, 25))
    frames = [(picture(n), t, None) for n, t in enumerate(times)]
    path = encode(frames, info, tmp_path / f"a{suffix}", cuts=(2, 3))
    shown = frames_of(path)
    assert times_of(path) == [Fraction(t, 25) for t in times]
    assert all(psnr(f.image, image) > 25 for f, (image, _, _) in zip(shown, frames, strict=True))
    with open_source(path) as video:
        assert video.info.duration == Fraction(12, 25)
    assert read_video_settings(path) == SETTINGS


def test_gif_leaves_out_what_no_player_shows(tmp_path: Path) -> None:
    info = info_of(rate=Fraction(100), time_base=Fraction(1, 100))
    path = encode([(picture(n), n, None) for n in range(11)], info, tmp_path / "a.gif")
    assert times_of(path) == [Fraction(n, 50) for n in range(6)]
    ntsc = info_of(rate=Fraction(30), time_base=Fraction(1, 30))
    path = encode([(picture(n), n, None) for n in range(31)], ntsc, tmp_path / "b.gif")
    assert max(abs(t - Fraction(n, 30)) for n, t in enumerate(times_of(path))) <= Fraction(1, 200)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animated_results_keep_opacity(tmp_path: Path, suffix: str) -> None:
    opacity = np.zeros((48, 64), np.uint8)
    opacity[:, 32:] = 255
    path = encode([(picture(n), n * 5, opacity) for n in range(3)], info_of(alpha=True), tmp_path / f"a{suffix}")
    for frame in frames_of(path):
        assert frame.alpha is not None
        assert frame.alpha[:, 36:].min() == 255
        assert frame.alpha[:, :28].max() == 0


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", ["out", "f_%04d.png"])
def test_pictures_as_result(tmp_path: Path, name: str, deep: bool) -> None:
    info = info_of(bits=16 if deep else 8)
    frames = [(picture(n, deep=deep), n, None) for n in range(5)]
    target = encode(frames, info, tmp_path / name, cuts=(2,))
    first = tmp_path / ("out/00000.png" if name == "out" else "f_0000.png")
    assert first.is_file()
    assert read_video_settings(target)["steps"] == 3 or deep
    for frame, (image, _, _) in zip(frames_of(target), frames, strict=True):
        assert np.abs(frame.image.astype(int) - image).max() <= (1 if deep else 0)
    encode(frames, info, target)  # once more, over the first
    assert len(frames_of(target)) == 5
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
