"""What a source or a target is known to be before a frame is read or written."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from helpers.films import SETTINGS, encode, info_of, picture
from helpers.paths import CLIP
from onnxdream.errors import OptionError, VideoError
from onnxdream.video.io.open import (
    ColorTags,
    Encoding,
    finish,
    open_source,
    open_writer,
    read_video_settings,
    target_kind,
)


def test_facts_of_a_file() -> None:
    with open_source(CLIP) as video:
        info = video.info
    assert (info.width, info.height, info.rate, info.frames) == (320, 180, 25, 48)
    assert info.duration == Fraction(48, 25)
    assert (info.bits, info.alpha, info.has_audio, info.codec, info.pix_fmt) == (8, False, True, "h264", "yuv420p")
    assert info.color == ColorTags(1, 1, 1, 1)
    assert (info.start, info.aspect) == (0, 1)


def not_videos(folder: Path) -> Iterator[tuple[Path, str]]:
    yield folder / "missing.mp4", "no such file"
    (folder / "empty.mp4").touch()
    yield folder / "empty.mp4", "the file is empty"
    (folder / "text.mp4").write_text("not a video " * 99)
    yield folder / "text.mp4", "not a video, or of a kind that cannot be read"
    (folder / "nothing").mkdir()
    yield folder / "nothing", "no pictures in this folder"
    yield folder / "f_%03d.png", "no picture fits this pattern"
    yield folder / "*.png", "no picture fits this pattern"
    cv2.imwrite(str(folder / "still.png"), picture(0))
    yield folder / "still.png", "is a still picture"
    with av.open(str(folder / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", 48000)
        for number in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
            frame.rate, frame.pts = 48000, number * 1024
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    yield folder / "sound.mp4", "has no video stream"
    (folder / "header.mp4").write_bytes(CLIP.read_bytes()[:200])
    yield folder / "header.mp4", "has no video stream"
    (folder / "bad.gif").write_bytes(b"GIF89a" + bytes(40))
    yield folder / "bad.gif", "not an animated picture"


def test_what_is_no_video_is_said_in_one_line(tmp_path: Path) -> None:
    for path, reason in not_videos(tmp_path):
        with pytest.raises(VideoError, match=reason) as caught:
            open_source(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"rate": Fraction(25)}, {"size": (64, 48)}, {"pix_fmt": "bgr24"}, {"rate": Fraction(0)}],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        open_source(CLIP, **options)
    with pytest.raises(OptionError):
        open_source("-", **({"size": (64, 48)} if options.get("size") else options))


def test_kinds_of_targets(tmp_path: Path) -> None:
    kinds = {"a.mp4": "video", "A.MKV": "video", "a.gif": "animation", "a.webp": "animation", "out": "pictures",
             "f_%04d.png": "pictures", "%d.jpg": "pictures", "-": "pipe"}  # fmt: skip
    assert {name: target_kind(name) for name in kinds} == kinds
    (tmp_path / "dir.v1").mkdir()
    assert target_kind(tmp_path / "dir.v1") == "pictures"


def test_settings(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="carries no onnxdream settings"):
        read_video_settings(CLIP)
    with pytest.raises(VideoError):
        read_video_settings(tmp_path / "missing.mp4")
    own = encode([(picture(0), 0, None)], info_of(), tmp_path / "a.mov")
    assert read_video_settings(own) == SETTINGS
    with open_writer(tmp_path / "p", info_of(), Encoding(), "b.mp4") as writer:
        writer.write(picture(0), 0)
    finish(tmp_path / "b.mp4", [tmp_path / "p"], None, info_of(), metadata={"x-own-key": "1", "comment": '{"a": 2}'})
    assert read_video_settings(tmp_path / "b.mp4") == {"a": 2}
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.metadata["x-own-key"] == "1"
