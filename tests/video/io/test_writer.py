"""The writer of a segment."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from helpers.films import info_of, irregular, picture
from helpers.paths import CLIP
from onnxdream.errors import VideoError
from onnxdream.video.io.open import Encoding, VideoWriter, read_segment


def test_a_segment_tells_its_times(tmp_path: Path) -> None:
    info = info_of(time_base=Fraction(1, 90000))
    times = [90000 + t for t in irregular(9)]
    with VideoWriter(tmp_path / "part", info, Encoding(), "a.mp4") as writer:
        for number, time in enumerate(times):
            writer.write(picture(number), time)
        assert not (tmp_path / "part").exists()
    assert read_segment(tmp_path / "part", info) == times
    with pytest.raises(VideoError, match="belongs to another"):
        read_segment(tmp_path / "part", info_of())
    with pytest.raises(VideoError, match="not a segment"):
        read_segment(CLIP, info)


def test_a_writer_left_by_an_exception_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with VideoWriter(tmp_path / "part", info_of(), Encoding(), "a.mp4") as writer:
            writer.write(picture(0), 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_writer_takes_only_what_fits(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "part", info_of(alpha=True), Encoding(), "a.webm") as writer:
        writer.write(picture(0), 5)
        for image, pts, alpha in [
            (picture(0), 5, None),
            (picture(0, 62), 6, None),
            (picture(0).astype(np.float32), 6, None),
            (picture(0), 6, np.zeros((3, 3), np.uint8)),
            (picture(0), 6, np.zeros((48, 64), np.uint16)),
        ]:
            with pytest.raises(ValueError, match=r"here|follow"):
                writer.write(image, pts, alpha)
    empty = VideoWriter(tmp_path / "empty", info_of(), Encoding(), "a.mp4")
    with pytest.raises(ValueError, match="needs a frame"):
        empty.close()
    assert [p.name for p in tmp_path.iterdir()] == ["part"]
