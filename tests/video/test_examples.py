"""The examples run as they stand, on real pictures and clips."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.paths import DATA, ROOT
from onnxdream.video.io.open import Encoding, finish, open_source, open_writer

EXAMPLES = ROOT / "tests" / "examples"


def example(name: str, *arguments: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def frames(path: Path, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(read[1] if size is None else cv2.resize(read[1], size))
    return found


def short_clip(folder: Path, count: int = 10) -> Path:
    """The first frames of the clip, small, as a file of its own, without its sound."""
    writer = cv2.VideoWriter(str(folder / "in.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (192, 108))
    for frame in frames(DATA / "clip.mp4", (192, 108))[:count]:
        writer.write(frame)
    writer.release()
    return folder / "in.mp4"


def change(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(float) - b)


def test_folder(tmp_path: Path, rocket: np.ndarray) -> None:
    source = tmp_path / "in"
    source.mkdir()
    small = cv2.resize(rocket, (160, 107), interpolation=cv2.INTER_AREA)[..., ::-1]
    cv2.imwrite(str(source / "a.png"), small)
    cv2.imwrite(str(source / "b.jpg"), small[:, ::-1])
    (source / "notes.txt").write_text("no picture")
    example("folder.py", source, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert change(cv2.imread(str(tmp_path / "out" / "a.png")), small).mean() > 3


def test_what_moves(tmp_path: Path) -> None:
    source = short_clip(tmp_path)
    example("what_moves.py", source, tmp_path / "out.mp4")
    before, after = frames(source), frames(tmp_path / "out.mp4")
    assert len(after) == len(before)
    changed = change(after[-1], before[-1]).mean(axis=2)
    moving = np.mean([change(a, b).mean(axis=2) for a, b in zip(before[-4:-1], before[-3:], strict=True)], axis=0)
    still = cv2.erode((moving < 2).astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert still.sum() > 200
    assert changed[moving > 12].mean() > 2 * changed[still].mean()


@pytest.mark.slow
def test_loudness(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    with open_source(DATA / "clip.mp4") as video:  # half as large, a quarter as long, with its sound
        info = replace(video.info, width=160, height=90)
        writer = open_writer(tmp_path / "segment", info, Encoding(), source)
        for frame in islice(video.frames(), 12):
            writer.write(cv2.resize(frame.image, (160, 90)), frame.pts)
        writer.close()
        finish(source, [tmp_path / "segment"], DATA / "clip.mp4", info, metadata={})
    example("loudness.py", source, tmp_path / "out.mp4")
    before, after = frames(source), frames(tmp_path / "out.mp4")
    assert len(after) == len(before) == 12
    assert min(change(a, b).mean() for a, b in zip(after, before, strict=True)) > 3


def test_the_readme_shows_the_webcam_example() -> None:
    code = (EXAMPLES / "webcam.py").read_text().partition('"""\n\n')[2]
    assert f"```python\n{code}```" in (ROOT / "README.md").read_text()
