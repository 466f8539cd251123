"""Transport streams as receivers and `cat` leave them: clocks that jump, sizes that change, packets that are lost.

An encoder started anew, whose clock begins again: video-dev/hls.js#283. Another size in the middle, stretched or lost:
video-dev/hls.js#1842.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.films import convert, digest, frames_of, packets, picture, psnr, transport_stream, write_video
from helpers.jobs import job
from helpers.notes import noted, notes
from onnxdream.dream.dreamer import Dreamer

TS = 188  # bytes of a packet
VIDEO, SOUND = 0x100, 0x101  # the numbers FFmpeg gives the streams
STEP = Fraction(1, 25)


def joined(path: Path, *parts: Path, cut: int = 0) -> Path:
    """The parts end to end, without the last `cut` bytes of the first."""
    first, *others = [part.read_bytes() for part in parts]
    path.write_bytes(first[: len(first) - cut] + b"".join(others))
    return path


def packets_of(data: bytes, pid: int) -> list[int]:
    """Where the packets of a program's stream begin, without those that begin one of its frames."""
    heads = ((place, data[place + 1 : place + 4]) for place in range(0, len(data), TS))
    return [place for place, head in heads if (head[0] & 0x1F) << 8 | head[1] == pid and not head[0] & 0x40]


def flashes(path: Path) -> tuple[list[float], list[float]]:
    """When it is light and when it is loud, in seconds."""
    with av.open(str(path)) as container:
        light = [float(f.time) for f in container.decode(video=0) if f.to_ndarray(format="gray").mean() > 128]
    with av.open(str(path)) as container:
        parts = [(float(f.time), f.to_ndarray().astype(np.float64).ravel()) for f in container.decode(audio=0)]
    level = max(np.abs(wave).max() for _, wave in parts) / 2
    loud: list[float] = []
    for begin, wave in parts:
        if np.abs(wave).max() > level:
            time = begin + int(np.argmax(np.abs(wave) > level)) / 48000
            loud += [time] if not loud or time > loud[-1] + 0.3 else []
    return light, loud


@pytest.mark.parametrize(("begins", "suffix"), everyday([
    ((0, 30), "mp4"), ((0, 0), "mkv"), ((500, 0), "mp4"), ((0, 0, 40), "mp4"), ((0, 30), "mkv"),
], 3))  # fmt: skip
def test_two_recordings_in_one_file_play_one_after_the_other(
    tmp_path: Path, begins: tuple[float, ...], suffix: str
) -> None:
    parts = [transport_stream(tmp_path / f"{n}.ts", 25, 6 + n, begin=begin) for n, begin in enumerate(begins)]
    with notes() as told:
        source = joined(tmp_path / "a.ts", *parts)
        frames = frames_of(source)
    assert len(told) == 1
    assert "a.ts: its clock jumps at" in told[0]
    assert [digest(f) for f in frames] == [digest(f) for part in parts for f in frames_of(part)]
    assert {b.pts - a.pts for a, b in pairwise(frames)} == {STEP * 90000}
    with noted("its clock jumps"):
        result = convert(source, tmp_path / f"b.{suffix}")
    light, loud = flashes(result)
    assert len(light) == len(loud) == len(begins)
    assert np.allclose(np.diff(light), 1 + 1 / 25, atol=0.002)
    assert np.allclose(light, loud, atol=0.015)
    times = [time for time, _, _ in packets(result, "audio")]
    assert all(0 < b - a < Fraction(6, 100) for a, b in pairwise(times))


def test_a_recording_torn_at_the_joint_goes_on_at_the_next_keyframe(tmp_path: Path) -> None:
    first, second = (transport_stream(tmp_path / f"{n}.ts", 25, 6, begin=20.0 * n) for n in range(2))
    whole = [[digest(f) for f in frames_of(part)] for part in (first, second)]
    data = second.read_bytes()
    second.write_bytes(data[len(data) // 3 // TS * TS :])  # begins between keyframes
    with notes():
        frames = frames_of(joined(tmp_path / "a.ts", first, second, cut=9001))
    seen = [digest(f) for f in frames]
    assert seen[-15:] == whole[1][10:]
    assert seen[:20] == whole[0][:20]
    assert len(seen) <= 25 + 15
    assert {b.pts - a.pts for a, b in pairwise(frames)} == {3600}


def test_streams_that_bear_other_numbers_after_the_joint_are_the_same(tmp_path: Path) -> None:
    first = transport_stream(tmp_path / "1.ts", 25, 6)
    second = transport_stream(tmp_path / "2.ts", 25, 6, begin=40, first_number=0x200)
    whole = [[digest(f) for f in frames_of(part)] for part in (first, second)]
    source = joined(tmp_path / "a.ts", first, second)
    with notes():
        seen = [digest(f) for f in frames_of(source)]
        light, loud = flashes(convert(source, tmp_path / "b.mp4"))
    assert seen[:22] == whole[0][:22]  # the demuxer holds back the last packet of the first part
    assert seen[-25:] == whole[1]
    assert np.allclose(light, loud, atol=0.015)
    assert len(light) == 2


@pytest.mark.slow
def test_a_program_that_begins_in_the_middle_does_no_harm(tmp_path: Path) -> None:
    first = transport_stream(tmp_path / "1.ts", 300, 6)
    second = transport_stream(tmp_path / "2.ts", 25, 6, begin=40, first_number=0x200, program=7)
    whole = [digest(f) for f in frames_of(first)]
    with notes():
        source = joined(tmp_path / "a.ts", first, second)
        assert [digest(f) for f in frames_of(source)] == whole
        assert len(packets(convert(source, tmp_path / "b.mp4"), "video")) == 300


def test_a_change_of_size_is_a_cut_and_is_scaled(tmp_path: Path, nothing: Dreamer) -> None:
    small, large = (transport_stream(tmp_path / f"{w}.ts", 6, 99, size=(w, w // 4 * 3)) for w in (64, 96))
    source = joined(tmp_path / "a.ts", small, large)
    with noted(r"a\.ts: its size changes from 64x48 to 96x72 at 0\.25 s; pictures are scaled to 64x48"):
        frames = frames_of(source)
    assert [f.cut for f in frames] == [n == 6 for n in range(12)]
    assert {f.image.shape for f in frames} == {(48, 64, 3)}
    assert min(psnr(a.image, b.image) for a, b in zip(frames[:6], frames[6:], strict=True)) > 20
    with notes():  # a new scene, and so a new segment, though both pictures look the same
        assert job(source, tmp_path / "b.mp4", nothing, segment_frames=8).segments == 2
        assert job(source, tmp_path / "c.mp4", nothing, segment_frames=8, overlap=2).segments == 2


@pytest.mark.parametrize("filling", [b"\xff", None])
def test_one_damaged_packet_is_not_the_end(tmp_path: Path, filling: bytes | None) -> None:
    source = transport_stream(tmp_path / "a.ts", 50, 6, size=(160, 120))
    whole = [digest(f) for f in frames_of(source)]
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        begin = [p.pos for p in container.demux(video=0) if p.size and p.is_keyframe][2]
    place = [place for place in packets_of(data, VIDEO) if place > begin][2]
    if filling is None:
        del data[place : place + TS]  # lost
    else:
        data[place + 8 : place + TS] = filling * (TS - 8)
    source.write_bytes(data)
    with noted(r"a\.ts: is damaged at 0\.\d\d s; the dream goes on after that") as told:
        frames = frames_of(source)
    assert len(told) == 1
    assert len(frames) in (49, 50)
    assert [digest(f) for f in frames[:18]] == whole[:18]
    assert [digest(f) for f in frames[-19:]] == whole[-19:]
    assert {b.pts - a.pts for a, b in pairwise(frames)} <= {3600, 7200}


def test_pictures_that_are_lost_to_the_end_are_missed(tmp_path: Path) -> None:
    source = transport_stream(tmp_path / "a.ts", 75, 6)
    data = bytearray(source.read_bytes())
    for place in range(len(data) // 3 // TS * TS, len(data), TS):
        if (data[place + 1] & 0x1F) << 8 | data[place + 2] == VIDEO:
            data[place + 4 : place + TS] = bytes(TS - 4)
    source.write_bytes(data)
    with noted(r"a\.ts: has no more pictures at 1\.\d\d s; its sound goes on for 1\.\d\d s"):
        assert 20 < len(frames_of(source)) < 35


def test_sound_that_is_damaged_is_left_out_where_it_is(tmp_path: Path) -> None:
    source = transport_stream(tmp_path / "a.ts", 25, 20)
    data = bytearray(source.read_bytes())
    place = packets_of(data, SOUND)[3]
    data[place + 8 : place + TS] = bytes(TS - 8)
    source.write_bytes(data)
    for suffix in ("mp4", "webm"):
        with notes():
            result = convert(source, tmp_path / f"b.{suffix}")
        light, loud = flashes(result)
        assert len(light) == 1
        assert np.allclose(light, loud, atol=0.02)


def test_no_frame_is_lost_between_two_chapters_of_a_dvd(tmp_path: Path) -> None:
    parts = []
    for width in (64, 96):
        images = [picture(number, width, 48) for number in range(20)]
        parts.append(write_video(tmp_path / f"{width}.mpg", images, codec="mpeg2video"))
    with noted("its clock jumps"):
        frames = frames_of(joined(tmp_path / "a.mpg", *parts))
    assert len(frames) == 40
    assert [n for n, frame in enumerate(frames) if frame.cut] == [20]
    assert {b.pts - a.pts for a, b in pairwise(frames)} == {3600}
