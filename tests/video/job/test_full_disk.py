"""Whole jobs on a disk that is full."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from helpers.breadth import everyday
from helpers.films import write_video
from helpers.jobs import LOSSLESS, assert_same_film, clip_pictures, job, names
from onnxdream.dream.dreamer import Dreamer
from onnxdream.errors import WriteError


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


@pytest.mark.parametrize("filled", everyday(range(0, 24, 3), 3))
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


def test_a_disk_that_is_full_from_the_beginning(tmp_path: Path, small_disk: Path, look: Dreamer) -> None:
    source = write_video(tmp_path / "a.mp4", clip_pictures(2))
    fill_up(small_disk)
    with pytest.raises(WriteError, match="No space left on device"):
        job(source, small_disk / "b.mp4", look)
    assert names(small_disk) == ["other"]
