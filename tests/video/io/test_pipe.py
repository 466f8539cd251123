"""Frames through pipes, to and from processes of their own."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.command_line import run_python
from helpers.films import digest, picture, planes_film, planes_of
from helpers.paths import CLIP
from onnxdream.video.io.open import ColorTags, VideoFrame, open_source

PASS_ON = """
import sys
from fractions import Fraction
from onnxdream.video.io.open import Encoding, open_writer, open_source, finish
source, target, codec, options = sys.argv[1], sys.argv[2], sys.argv[3] or None, eval(sys.argv[4])
with open_source(source, **options) as video:
    encoding = Encoding(codec=codec)
    with open_writer(None, video.info, encoding, target) as writer:
        for frame in video.frames():
            if frame.index == 7:  # another writer goes on where one ends
                writer.close()
                writer = open_writer(None, video.info, encoding, target)
            writer.write(frame.image, frame.pts, frame.alpha, frame)
        finish(target, [], source, video.info, metadata={})
"""


TELL = """
import sys, hashlib
from fractions import Fraction
from onnxdream.video.io.open import open_source
with open_source("-", **eval(sys.argv[1])) as video:
    i = video.info
    print(i.width, i.height, i.rate, i.bits)
    for f in video.frames():
        print(f.index, f.pts * i.time_base, hashlib.sha256(f.image.tobytes()).hexdigest(), int(f.image.mean()))
    try:
        list(video.frames())
    except Exception as error:
        print(error)
"""


def test_bare_frames_through_pipes(clip_frames: list[VideoFrame]) -> None:
    data = run_python(PASS_ON, str(CLIP), "-", "rawvideo", "{}")
    assert len(data) == 48 * 320 * 180 * 3
    lines = run_python(TELL, "dict(rate=Fraction(25), size=(320, 180))", given=data).decode().splitlines()
    assert lines[0] == "320 180 25 8"
    assert [line.split()[2] for line in lines[1:-1]] == [digest(f) for f in clip_frames]
    assert [line.split()[1] for line in lines[1:-1]] == [str(Fraction(n, 25)) for n in range(48)]
    assert "only once" in lines[-1]


def test_y4m_through_pipes(clip_frames: list[VideoFrame]) -> None:
    data = run_python(PASS_ON, str(CLIP), "-", "", "{}")
    assert data.startswith(b"YUV4MPEG2 W320 H180 F25:1 ")
    assert data.count(b"YUV4MPEG2") == 1
    lines = run_python(TELL, "{}", given=data).decode().splitlines()
    assert lines[0] == "320 180 25 8"
    means = [int(line.split()[3]) for line in lines[1:-1]]
    assert max(abs(m - int(f.image.mean())) for m, f in zip(means, clip_frames, strict=True)) <= 1
    passed = run_python(PASS_ON, "-", "-", "y4m", "{}", given=data)
    assert len(passed) == len(data)


@pytest.mark.parametrize(
    ("pix_fmt", "siting", "name"),
    everyday(
        [("yuv420p", "topleft", "420paldv"), ("yuv420p", "center", "420jpeg"), ("yuv420p", "left", "420mpeg2"),
         ("yuv422p10le", "left", "422p10"), ("yuv444p", "left", "444"), ("yuv420p12le", "left", "420p12")], 3
    ),
)  # fmt: skip
def test_planes_through_pipes(tmp_path: Path, pix_fmt: str, siting: str, name: str) -> None:
    """Odd sizes too; what comes back is read as a file, for y4m is one."""
    random, depth = np.random.default_rng(1), int(pix_fmt.partition("p")[2].removesuffix("le") or 8)
    halved = {"420": (17, 24), "422": (33, 24), "444": (33, 47)}[pix_fmt[3:6]]
    kind = np.uint8 if depth == 8 else np.uint16
    frames = [[random.integers(0, 1 << depth, s).astype(kind) for s in ((33, 47), halved, halved)] for _ in range(2)]
    source = planes_film(tmp_path / "a.mkv", frames, pix_fmt, siting, ColorTags(range=1))
    result = tmp_path / "b.y4m"
    result.write_bytes(run_python(PASS_ON, str(source), "-", "y4m", "{}"))
    assert f" C{name} " in result.read_bytes()[:100].decode("ascii", "replace")
    for ours, theirs in zip(planes_of(result), frames, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    with open_source(result) as video:
        assert (video.info.pix_fmt, video.info.siting) == (pix_fmt, siting)


READ_A_PIPE = """
import sys
from fractions import Fraction
from onnxdream.errors import VideoError
from onnxdream.video.io.open import open_source
count, bare = 0, {"size": (96, 54), "rate": Fraction(25)}
try:
    for frame in open_source("-", **({} if sys.argv[1] == "y4m" else bare)).frames():
        count += 1
    print(count)
except VideoError as error:
    print(count, error)
"""


@pytest.mark.parametrize("kind", ["y4m", "bgr24"])
def test_a_pipe_cut_off_says_so_after_its_frames(kind: str) -> None:
    size, begin = 96 * 54 * 3, b"FRAME\n" if kind == "y4m" else b""
    head = b"YUV4MPEG2 W96 H54 F25:1 Ip A1:1 C444\n" if kind == "y4m" else b""
    data = head + 4 * (begin + bytes(range(96)) * (size // 96))
    broken = "3 -: the video is damaged or cut off after 0.08 s"
    missing = {0: "4", 1: broken, 5000: broken, size - 1: broken, size + len(begin): "3"}
    if begin:
        missing |= {size: broken, size + 4: broken}
    for count, says in missing.items():
        assert run_python(READ_A_PIPE, kind, given=data[: len(data) - count]).decode().strip() == says, count


def test_deep_y4m(tmp_path: Path) -> None:
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number, deep=True))
    data = run_python(PASS_ON, str(tmp_path), "-", "", "dict(rate=Fraction(30000, 1001))")
    assert b" F30000:1001 " in data[:99]
    assert run_python(TELL, "{}", given=data).decode().startswith("64 48 30000/1001 12\n")


def test_what_is_no_stream_is_said(tmp_path: Path) -> None:
    code = "from onnxdream.video.io.open import open_source\ntry:\n open_source('-')\nexcept Exception as e: print(e)"
    assert run_python(code, given=b"hello" * 99).decode().strip() == "-: not a y4m stream"
    assert run_python(code, given=b"").decode().startswith("-: ")
