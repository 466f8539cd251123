"""Frames out of video files: their times, any part of them, and damage."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from helpers.films import (
    convert,
    digest,
    encode,
    frames_of,
    info_of,
    irregular,
    packets,
    picture,
    psnr,
    times_of,
    write_video,
)
from helpers.paths import CLIP
from onnxdream.errors import VideoError
from onnxdream.video.io.open import VideoFrame, open_source


def test_frames_are_those_of_the_decoder(clip_frames: list[VideoFrame]) -> None:
    with av.open(str(CLIP)) as container:
        reference = list(container.decode(video=0))
    assert [f.pts for f in clip_frames] == [f.pts for f in reference]
    assert [f.index for f in clip_frames] == list(range(48))
    for frame, expected in zip(clip_frames[::12], reference[::12], strict=True):
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert frame.alpha is None
        assert psnr(frame.image, expected.to_ndarray(format="rgb24", threads=1)) > 38


@pytest.mark.parametrize(("suffix", "unit"), [(".mp4", 90000), (".mkv", 1000), (".mov", 12800)])
def test_irregular_times_are_exact(tmp_path: Path, suffix: str, unit: int) -> None:
    times = irregular(20)
    path = write_video(
        tmp_path / f"a{suffix}", map(picture, range(20)), times, time_base=Fraction(1, unit), options={"bf": "3"}
    )
    assert times_of(path) == [Fraction(t, unit) for t in times]


@pytest.mark.parametrize("begin", [0, 200])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_last_picture_stays_as_long_as_in_the_source(tmp_path: Path, suffix: str, begin: int) -> None:
    """Shorter than is usual there: 40 ms after 80 or 40."""
    source = tmp_path / f"a{suffix}"
    with av.open(str(source), "w") as out:
        stream: Any = out.add_stream("libx264", 25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        made = []
        for number, time in enumerate((0, 80, 160, 200, 280, 360, 440, 520)):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24").reformat(format="yuv420p", threads=1)
            frame.pts, frame.time_base = begin + time, Fraction(1, 1000)
            made += stream.encode(frame)
        made += stream.encode(None)
        for packet in made:
            packet.duration = round(Fraction(1, 25) / packet.time_base) if packet is made[-1] else 0
            out.mux(packet)
    result = convert(source, tmp_path / f"b{suffix}", cuts=(3,))
    for path in (source, result):
        with open_source(path) as video:
            assert video.info.duration == Fraction(begin + 560, 1000)
    assert times_of(result) == times_of(source)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize(("mirror_x", "mirror_y"), [(False, False), (True, False), (False, True)])
def test_every_way_of_holding_a_camera(tmp_path: Path, degrees: int, mirror_x: bool, mirror_y: bool) -> None:
    upright = np.zeros((48, 80, 3), np.uint8)
    upright[:24, :40], upright[:24, 40:], upright[24:, :40] = (250, 20, 20), (20, 250, 20), (20, 20, 250)
    # What the camera stored: the player mirrors, then turns counter-clockwise.
    stored = np.rot90(upright, -degrees // 90)
    if degrees % 180 == 0:
        stored = stored[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]
    else:
        stored = stored[:: -1 if mirror_x else 1, :: -1 if mirror_y else 1]
    path = write_video(
        tmp_path / "a.mp4",
        [np.ascontiguousarray(stored)] * 2,
        pix_fmt="yuv444p",
        options={"crf": "4"},
        setup=lambda s: s.set_display_rotation(degrees, mirror_x, mirror_y),
    )
    with open_source(path) as video:
        assert (video.info.width, video.info.height) == (80, 48)
        shown = next(iter(video.frames())).image
    inner = np.s_[4:20, 4:36], np.s_[4:20, 44:76], np.s_[28:44, 4:36]
    for place in inner:
        assert np.abs(shown[place].astype(int) - upright[place]).max() < 12


def test_a_turned_source_stays_upright_in_the_result(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [picture(i) for i in range(3)], setup=lambda s: s.set_display_rotation(90))
    result = convert(path, tmp_path / "b.mp4")
    with av.open(str(result)) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (48, 64, 0)


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Videos in which frames are hard to find: open groups, hidden frames, irregular times, no index."""
    folder = tmp_path_factory.mktemp("long")
    images = [picture(i) for i in range(120)]
    open_groups = {"x264-params": "keyint=25:open-gop=1:bframes=3:b-adapt=0:scenecut=0"}
    return {
        "open groups": write_video(folder / "a.mp4", images, options=open_groups),
        "irregular": write_video(
            folder / "b.mp4", images, irregular(120), time_base=Fraction(1, 90000), options=open_groups
        ),
        "matroska": write_video(folder / "c.mkv", images, options={"g": "25"}),
        "hidden frames": write_video(
            folder / "d.webm", images, codec="libvpx-vp9", options={"g": "25", "lag-in-frames": "16", "cpu-used": "8"}
        ),
        "vp8": write_video(folder / "e.webm", images, codec="libvpx", options={"g": "25", "auto-alt-ref": "1"}),
        "transport stream": write_video(folder / "f.ts", images, options={"g": "25"}),
        "every frame a key": write_video(folder / "g.mov", images, codec="mjpeg", pix_fmt="yuvj420p"),
        "pieces": write_video(
            folder / "h.mp4",
            images,
            options={"g": "25"},
            container_options={"movflags": "frag_keyframe+empty_moov"},
        ),
    }


KINDS = [
    "open groups", "irregular", "matroska", "hidden frames", "vp8", "transport stream", "every frame a key", "pieces"
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_any_frame_can_be_begun_at(long_videos: dict[str, Path], kind: str) -> None:
    everything = frames_of(long_videos[kind])
    assert len(everything) == 120
    with open_source(long_videos[kind]) as video:
        for place in (1, 60, 75, 98, 119):
            found = next(video.frames(skip_to=place))
            assert (found.index, found.pts, digest(found)) == (place, everything[place].pts, digest(everything[place]))
        assert next(video.frames(skip_to=120), None) is None
        rest = list(video.frames(skip_to=101))
        assert [(f.index, f.pts) for f in rest] == [(f.index, f.pts) for f in everything[101:]]


@pytest.mark.parametrize("kind", KINDS)
def test_start_and_end_choose_by_time(long_videos: dict[str, Path], kind: str) -> None:
    start, end = Fraction(3, 2), Fraction(5, 2)
    with open_source(long_videos[kind]) as video:
        info = video.info
        clock = [(f.pts * info.time_base - info.start, f.index, digest(f)) for f in video.frames()]
        chosen = [(f.pts * info.time_base - info.start, f.index, digest(f)) for f in video.frames(start, end)]
    assert chosen == [entry for entry in clock if start <= entry[0] < end]
    assert chosen


def cut_off(path: Path, share: float) -> Path:
    data = path.read_bytes()
    short = path.with_name(f"short{path.suffix}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".flv"])
@pytest.mark.parametrize("share", [0.35, 0.8])
def test_a_file_cut_off_gives_its_frames_and_then_says_where(tmp_path: Path, suffix: str, share: float) -> None:
    front = {"movflags": "+faststart"} if suffix == ".mp4" else {}
    noise = np.random.default_rng(0)
    images = [picture(i) // 2 + noise.integers(0, 99, (48, 64, 3), dtype=np.uint8) for i in range(50)]
    path = write_video(tmp_path / f"a{suffix}", images, container_options=front)
    whole = frames_of(path)
    assert len(whole) == 50
    with open_source(cut_off(path, share)) as video:
        seen: list[VideoFrame] = []
        with pytest.raises(VideoError, match=r"damaged or cut off after \d\.\d\d s$") as caught:
            seen.extend(video.frames())
        seen = []
        with pytest.raises(VideoError):
            for frame in video.frames():
                seen.append(frame)
        time = float(seen[-1].pts * video.info.time_base)
    assert 50 * share * 0.6 < len(seen) < 50 * share * 1.2
    assert [digest(f) for f in seen] == [digest(f) for f in whole[: len(seen)]]
    assert f"after {time:.2f} s" in str(caught.value)


@pytest.mark.parametrize("filling", [b"\0", b"\xff", None])
def test_a_damaged_frame_ends_the_frames(tmp_path: Path, filling: bytes | None) -> None:
    path = write_video(
        tmp_path / "a.mp4", [picture(i, 160, 120) for i in range(40)], options={"g": "10", "bf": "0", "crf": "12"}
    )
    whole = frames_of(path)
    with av.open(str(path)) as container:
        broken = [p for p in container.demux(video=0) if p.size][20]
    data = bytearray(path.read_bytes())
    size = broken.size - 60
    noise = np.random.default_rng(3).bytes(size) if filling is None else filling * size
    data[broken.pos + 60 : broken.pos + broken.size] = noise
    path.write_bytes(data)
    seen = []
    with open_source(path) as video, pytest.raises(VideoError, match=r"after 0\.76 s$"):
        for frame in video.frames():
            seen.append(digest(frame))
    assert seen == [digest(f) for f in whole[:20]]
    assert [digest(f) for f in frames_of(path, end=Fraction(1, 2))] == seen[:13]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".webp"])
def test_no_damage_raises_anything_else(tmp_path: Path, suffix: str) -> None:
    source = encode(((picture(n), n, None) for n in range(12)), info_of(), tmp_path / f"a{suffix}")
    rng = np.random.default_rng(7)
    outcomes = set()
    for _ in range(25):
        data = np.frombuffer(source.read_bytes(), np.uint8).copy()
        reach = len(data) if rng.random() < 0.6 else min(len(data), 800)
        places = rng.integers(0, reach, rng.choice([1, 4, 40]))
        data[places] = rng.integers(0, 256, len(places))
        (tmp_path / f"b{suffix}").write_bytes(data.tobytes())
        try:
            with open_source(tmp_path / f"b{suffix}") as video:
                if video.info.width * video.info.height < 10**6:
                    outcomes.add(len(list(itertools.islice(video.frames(), 100))) > 0)
        except VideoError as error:
            outcomes.add(f"refused in {len(str(error).splitlines())} line")
    assert outcomes in ({True, "refused in 1 line"}, {True, False, "refused in 1 line"})


def test_a_source_cut_off_can_still_be_finished(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    source.write_bytes(CLIP.read_bytes()[: CLIP.stat().st_size * 7 // 10])
    frames = []
    with open_source(source) as video:
        with pytest.raises(VideoError, match=r"after 0\.96 s"):
            for frame in video.frames():
                frames.append((frame.image, frame.pts, None))
        result = encode(frames, video.info, tmp_path / "b.mp4", source=source)
    assert times_of(result) == times_of(CLIP)[:25]
    sound = packets(result, "audio")
    assert sound == packets(CLIP, "audio")[: len(sound)]
    assert len(sound) > 30


def test_damage_before_the_beginning_does_no_harm(long_videos: dict[str, Path], tmp_path: Path) -> None:
    whole = frames_of(long_videos["open groups"])
    with av.open(str(long_videos["open groups"])) as container:
        broken = [p for p in container.demux(video=0) if p.size][30]
    data = bytearray(long_videos["open groups"].read_bytes())
    data[broken.pos : broken.pos + broken.size] = bytes(broken.size)
    (tmp_path / "a.mp4").write_bytes(data)
    assert digest(frames_of(tmp_path / "a.mp4", skip_to=110)[0]) == digest(whole[110])


def test_a_recording_that_begins_between_keyframes(long_videos: dict[str, Path], tmp_path: Path) -> None:
    data = long_videos["transport stream"].read_bytes()
    (tmp_path / "a.ts").write_bytes(data[len(data) // 4 // 188 * 188 :])
    frames = frames_of(tmp_path / "a.ts")
    assert 60 < len(frames) < 100
    assert psnr(frames[0].image, frames_of(long_videos["transport stream"])[120 - len(frames)].image) > 60
