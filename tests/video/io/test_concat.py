"""Segments, and the result that is joined from them."""

from __future__ import annotations

import itertools
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from helpers.command_line import run_python
from helpers.films import FFV1, convert, digest, encode, frames_of, info_of, irregular, picture, psnr, times_of
from helpers.paths import CLIP
from onnxdream.errors import OutputError, VideoError
from onnxdream.video.io.open import Encoding, VideoFrame, finish, open_source, open_writer


@pytest.mark.parametrize("unit", [Fraction(1, 25), Fraction(1001, 30000), Fraction(1, 90000), Fraction(1, 1_000_000)])
def test_segments_join_to_the_same_frames(tmp_path: Path, unit: Fraction) -> None:
    begin = 7 if unit.denominator < 10**5 else 50_000_000
    steps = [1] * 29 if unit > Fraction(1, 100) else irregular(30)
    times = [begin + t for t in (range(30) if len(set(steps)) == 1 else steps)]
    frames = [(picture(n), t, None) for n, t in enumerate(times)]
    info = info_of(time_base=unit)
    one = encode(frames, info, tmp_path / "one.mp4")
    many = encode(frames, info, tmp_path / "many.mp4", cuts=(1, 2, 9, 20, 29))
    exact = [t * unit for t in times]
    assert times_of(one) == exact
    assert times_of(many) == exact
    for path in (one, many):
        with av.open(str(path)) as container:
            order = [(p.dts, p.pts) for p in container.demux(video=0) if p.size]
        assert all(dts <= pts for dts, pts in order)
        assert all(a[0] < b[0] for a, b in itertools.pairwise(order))
    shown = frames_of(many)
    assert all(psnr(f.image, image) > 40 for f, (image, _, _) in zip(shown, frames, strict=True))


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9"])
def test_segments_of_very_few_frames(tmp_path: Path, codec: str) -> None:
    frames = [(picture(n), n, None) for n in range(24)]
    cuts = [*range(10), 11, 13, 15, 18, 21]
    path = encode(frames, info_of(), tmp_path / "a.mp4", encoding=Encoding(codec=codec), cuts=cuts)
    assert times_of(path) == [Fraction(n, 25) for n in range(24)]
    assert all(psnr(f.image, image) > 35 for f, (image, _, _) in zip(frames_of(path), frames, strict=True))


def test_lossless_segments_join_bit_for_bit(tmp_path: Path, clip_frames: list[VideoFrame]) -> None:
    info = info_of(320, 180, time_base=Fraction(1, 12800))
    frames = [(f.image, f.pts, None) for f in clip_frames]
    one = encode(frames, info, tmp_path / "one.mkv", encoding=FFV1)
    many = encode(frames, info, tmp_path / "many.mkv", encoding=FFV1, cuts=range(0, 48, 7))
    assert [(f.pts, digest(f)) for f in frames_of(one)] == [(f.pts, digest(f)) for f in frames_of(many)]


def test_segments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def part(name: str, first: int, **changes: Any) -> Path:
        with open_writer(tmp_path / name, info_of(**changes), Encoding(), "a.mp4") as writer:
            writer.write(picture(0, changes.get("width", 64)), first)
        return tmp_path / name

    target = tmp_path / "a.mp4"
    target.write_text("from before")
    with pytest.raises(OutputError, match="does not begin after"):
        finish(target, [part("a", 3), part("b", 3)], None, info_of(), metadata={})
    with pytest.raises(OutputError, match="encoded otherwise"):
        finish(target, [part("a", 3), part("b", 4, width=32)], None, info_of(), metadata={})
    (tmp_path / "b").write_bytes((tmp_path / "b").read_bytes()[:50])
    with pytest.raises(VideoError):
        finish(target, [tmp_path / "a", tmp_path / "b"], None, info_of(), metadata={})
    assert target.read_text() == "from before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.mp4", "b"]


def test_the_result_appears_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.mp4"
    target.write_text("from before")
    names: list[list[str]] = []
    original = Path.replace

    def spied(self: Path, to: Path) -> Path:
        names.append(sorted(p.name for p in tmp_path.iterdir()))
        return original(self, to)

    monkeypatch.setattr(Path, "replace", spied)
    convert(CLIP, target, end=Fraction(1, 5))
    assert any(name.startswith(".") and name.endswith(".mp4") for name in names[-1])
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert len(frames_of(target)) == 5


def test_a_source_that_is_gone_spoils_nothing(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    shutil.copy(CLIP, source)
    with open_source(source) as video:
        frames = [(f.image, f.pts, None) for f in video.frames(end=Fraction(1, 5))]
        source.unlink()
        with pytest.raises(VideoError, match="No such file"):
            encode(frames, video.info, tmp_path / "b.mp4", source=source)
    assert not (tmp_path / "b.mp4").exists()


FILL = """
import resource, sys, signal
from pathlib import Path
from helpers.films import encode
from helpers.paths import CLIP
from onnxdream.errors import WriteError
from onnxdream.video.io.open import Encoding, finish, open_writer, open_source
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
with open_source(CLIP) as video:
    frames = [(f.image, f.pts, None) for f in video.frames()]
    with open_writer(folder / "part", video.info, Encoding(), "a.mp4") as writer:
        for frame in frames:
            writer.write(*frame)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
    for attempt in (
        lambda: finish(folder / "a.mp4", [folder / "part"], CLIP, video.info, metadata={}),
        lambda: encode(frames, video.info, folder / "b.mkv"),
        lambda: finish(folder / "out", [folder / "part"], CLIP, video.info, metadata={}),
    ):
        try:
            attempt()
            print("no error")
        except WriteError as error:
            print(error)
print(sorted(p.name for p in folder.iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_nothing_half_done(tmp_path: Path) -> None:
    lines = run_python(FILL, str(tmp_path)).decode().splitlines()
    assert [line.split(": ")[1:] for line in lines[:3]] == [["cannot be written", "File too large"]] * 3
    assert lines[3:] == ["['part']"]
