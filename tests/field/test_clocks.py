"""Files whose times are missing or are only those of decoding: frames still come at an even rate.

Recoders that stumble over AVI and Matroska files without times: nschlia/ffmpegfs#162,
HaveAGitGat/Tdarr_Plugins#219.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from helpers.films import convert, digest, frames_of, packets, picture, psnr, times_of, write_video
from onnxdream.video.io.clock import FrameClock
from onnxdream.video.io.open import open_source

PYRAMID = {"g": "30", "bf": "3", "x264-params": "b-pyramid=normal:b-adapt=0"}


def test_b_frames_in_an_avi_come_at_an_even_rate(tmp_path: Path) -> None:
    images = [picture(n) for n in range(40)]
    source = write_video(tmp_path / "a.avi", images, options=PYRAMID)
    frames = frames_of(source)
    assert [b.pts - a.pts for a, b in pairwise(frames)] == [1] * 39
    for number in range(1, 39):
        near = [psnr(frames[number].image, images[n]) for n in (number - 1, number, number + 1)]
        assert max(near) == near[1] > 30
    with open_source(source) as video:
        late = next(video.frames(start=Fraction(30, 25)))
        assert (late.pts, digest(late)) == (frames[late.index].pts, digest(frames[late.index]))
    result = convert(source, tmp_path / "b.mp4")
    assert {b - a for a, b in pairwise(times_of(result))} == {Fraction(1, 25)}


def test_a_matroska_file_without_times_of_its_first_frames(tmp_path: Path) -> None:
    """As recorders in Windows' own form (VFW) write it: a block tells when it is decoded, not when it is shown."""
    source = write_video(tmp_path / "a.avi", [picture(n) for n in range(30)], options=PYRAMID)
    path = tmp_path / "a.mkv"
    path.write_bytes(vfw_in_matroska(packets(source, "video"), 64, 48))
    times = times_of(path)
    assert len(times) == 30
    assert {b - a for a, b in pairwise(times)} == {Fraction(1, 25)}
    assert [digest(f) for f in frames_of(path)] == [digest(f) for f in frames_of(source)]


def vfw_in_matroska(blocks: list[tuple[Fraction, Fraction, bytes]], width: int, height: int) -> bytes:
    def element(name: str, content: bytes) -> bytes:
        return bytes.fromhex(name) + (len(content) | 1 << 56).to_bytes(8, "big") + content

    def number(name: str, value: int) -> bytes:
        return element(name, value.to_bytes(4, "big"))

    kind = element("4282", b"matroska") + number("4287", 2) + number("4285", 2)
    bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"H264", 0, 0, 0, 0, 0)
    track = number("D7", 1) + number("73C5", 1) + number("83", 1) + number("23E383", 40_000_000)
    track += element("86", b"V_MS/VFW/FOURCC") + element("63A2", bitmap)
    track += element("E0", number("B0", width) + number("BA", height))
    frames = b"".join(
        element("A3", b"\x81" + struct.pack(">hB", place * 40, 0 if place else 128) + data)
        for place, (_, _, data) in enumerate(blocks)
    )
    content = element("1549A966", number("2AD7B1", 1_000_000)) + element("1654AE6B", element("AE", track))
    return element("1A45DFA3", kind) + element("18538067", content + element("1F43B675", number("E7", 0) + frames))


def frame_at(pts: int | None) -> Any:
    frame = av.VideoFrame.from_ndarray(np.zeros((2, 2), np.uint8), "gray")
    frame.pts = pts
    return frame


@pytest.mark.parametrize(
    ("given", "times"),
    [
        ([None, None, 80, 120], [0, 40, 80, 120]),
        ([None, None, None, 1000, 1040], [880, 920, 960, 1000, 1040]),
        ([None, 10, 50], [0, 10, 50]),
        ([None, None, None], [0, 40, 80]),
        ([0, None, 80, None], [0, 40, 80, 120]),
        ([0, 40, 40, 20, 120], [0, 40, 41, 42, 120]),
    ],
)
def test_missing_times_are_filled_in_evenly(given: list[int | None], times: list[int]) -> None:
    clock = FrameClock(40, [(pts, None) for pts in given])
    assert [clock(frame_at(pts)) for pts in given] == times
