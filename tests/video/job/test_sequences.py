"""Whole jobs from and to folders of pictures and animated pictures."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.films import write_video
from helpers.jobs import clip_pictures, job, names, stills, strength, times
from onnxdream.dream.dreamer import Dreamer
from onnxdream.errors import OutputError
from onnxdream.images import read_picture
from onnxdream.video.io.open import open_source


def animation(path: Path, durations: list[int]) -> Path:
    from PIL import Image

    pictures = [Image.fromarray(i) for i in clip_pictures(len(durations))]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return path


@pytest.mark.parametrize(
    ("given", "target"),
    everyday(
        [("a.gif", "b.webp"), ("a.webp", "b.gif"), ("a.gif", "b.gif"), ("a.gif", "b.mp4"), ("a.webp", "b.mkv")], 2
    ),
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


@pytest.mark.parametrize("spec", everyday(["in", "in/*.png", "in/p%d.png"], 2))
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
        (film, other, "exists already, and onnxdream did not make it"),
        (film, text, "exists already, and onnxdream did not make it"),
        (film, tmp_path / "in", "exists already, and onnxdream did not make it"),
        (film, tmp_path / "no" / "a.jpg", "no folder"),
    ):
        with pytest.raises(OutputError, match=says):
            job(source, tmp_path / "b.mp4", look, preview=preview)
    assert {path: path.read_bytes() for path in before} == before
    for _ in range(2):  # an older preview may be replaced
        job(film, tmp_path / "b.mp4", look, preview=tmp_path / "now.jpg", overwrite=True)
    assert read_picture(tmp_path / "now.jpg").rgb.shape == (54, 96, 3)
