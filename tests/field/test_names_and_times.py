"""Names and times as people type them: very long names, names without an ending, times before the beginning."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.breadth import everyday
from helpers.command_line import onnxdream
from helpers.films import frames_of, picture, write_video
from helpers.jobs import LOOK, job, stopped
from helpers.notes import notes
from onnxdream.dream.dreamer import Dreamer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("names") / "a.mp4", [picture(n) for n in range(6)])


@pytest.mark.parametrize(("length", "suffix"), everyday([(246, ".mp4"), (255, ".mp4"), (246, ""), (255, "")], 3))
def test_the_longest_names_that_disks_take(
    source: Path, tmp_path: Path, nothing: Dreamer, length: int, suffix: str
) -> None:
    target = tmp_path / ("ü" * ((length - len(suffix)) // 2) + "n" * ((length - len(suffix)) % 2) + suffix)
    stopped(source, target, nothing, 4, segment_frames=2)
    with notes() as told:
        assert job(source, target, nothing, segment_frames=2).resumed_frames > 0
    assert not told
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert len(frames_of(target)) == 6


def test_a_name_that_no_disk_takes(source: Path, tmp_path: Path) -> None:
    for name in ("n" * 252 + ".mp4", "n" * 256):
        done = onnxdream("video", source, "-o", name, *LOOK, folder=tmp_path)
        assert done.returncode == 2
        assert "cannot be written (File name too long); choose another name" in done.stderr.replace("\n", " ")


def test_a_name_without_an_ending_says_what_it_becomes(source: Path, tmp_path: Path) -> None:
    told = "dream: has no ending, so it becomes a folder of pictures; dream.mp4 would be a video"
    look = [option for option in LOOK if option != "-q"]
    done = onnxdream("video", source, "-o", "dream", *look, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told in " ".join(done.stderr.split())
    assert len(list((tmp_path / "dream").iterdir())) == 6
    again = onnxdream("video", source, "-o", "dream", "--overwrite", *look, folder=tmp_path)
    assert "has no ending" not in again.stderr


@pytest.mark.parametrize(
    ("times", "answer"),
    [
        (["--start", "-1"], "time -1 is before the beginning of the video, which is 0; count from there"),
        (["--end=-0.5"], "time -0.5 is before the beginning of the video, which is 0; count from there"),
        (["--start", "2", "--end", "1:2:3:4"], "time '1:2:3:4' is not of the form 90, 1:30 or 0:01:30.5"),
        (["--start", "2", "--end", "1"], "no frame in that range; its end, 1.00 s, must be after the start, 2.00 s"),
        (["--end", "0"], "no frame in that range; its end, 0.00 s, must be after the beginning"),
        (["--start", "9"], "there is no frame in that range; it ends at 0.24 s"),
    ],
)
def test_times_that_cannot_be(source: Path, tmp_path: Path, times: list[str], answer: str) -> None:
    done = onnxdream("video", source, "-o", "b.mp4", *times, *LOOK, folder=tmp_path)
    assert done.returncode == 2
    assert answer in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())
