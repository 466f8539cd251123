"""What comes along from a source besides its pictures."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from helpers.films import SETTINGS, convert, digest, flash_film, loud_from, packets, picture, times_of
from helpers.notes import noted, notes
from helpers.paths import CLIP
from onnxdream.video.io.open import open_source, read_video_settings


@pytest.mark.parametrize("target", ["a.mp4", "a.mov"])
def test_sound_is_copied_bit_for_bit(tmp_path: Path, target: str) -> None:
    result = convert(CLIP, tmp_path / target, cuts=(10, 30))
    assert packets(result, "audio") == packets(CLIP, "audio")
    assert times_of(result) == times_of(CLIP)
    with av.open(str(result)) as container, av.open(str(CLIP)) as source:
        for ours, theirs in zip(container.streams, source.streams, strict=True):
            assert (ours.type, ours.language or "und") == (theirs.type, theirs.language or "und") or target == "a.mov"
            assert ours.duration * ours.time_base == theirs.duration * theirs.time_base
            assert ours.disposition == theirs.disposition
        assert container.duration == source.duration
        assert container.metadata["title"] == "Big Buck Bunny"
        assert container.streams.video[0].average_rate == 25
    assert read_video_settings(result) == SETTINGS


def test_sound_in_matroska(tmp_path: Path) -> None:
    result = convert(CLIP, tmp_path / "a.mkv")
    ours, theirs = packets(result, "audio"), [p for p in packets(CLIP, "audio") if p[0] >= 0]
    assert [data for _, _, data in ours] == [data for _, _, data in theirs]
    assert max(abs(a[0] - b[0]) for a, b in zip(ours, theirs, strict=True)) <= Fraction(1, 1000)
    assert times_of(result) == times_of(CLIP)
    assert read_video_settings(result) == SETTINGS


def test_sound_that_does_not_fit_is_encoded_anew(tmp_path: Path) -> None:
    with noted(r"a\.webm: audio stream 1 \(aac\) is encoded anew as Opus"):
        result = convert(CLIP, tmp_path / "a.webm")

    def samples(path: Path) -> np.ndarray:
        with av.open(str(path)) as container:
            resampler = av.AudioResampler("fltp", "mono", 48000)
            parts = [r.to_ndarray()[0] for f in container.decode(audio=0) for r in resampler.resample(f)]
        return np.concatenate(parts)

    ours, theirs = samples(result), samples(CLIP)
    size = 90000
    lags = range(-60, 61)
    match = [np.dot(ours[500 + lag : size + lag], theirs[500:size]) for lag in lags]
    assert abs(list(lags)[int(np.argmax(match))]) <= 48  # a thousandth of a second
    assert np.corrcoef(ours[500:size], theirs[500:size])[0, 1] > 0.9
    with av.open(str(result)) as container:
        assert container.streams.audio[0].codec_context.name == "opus"
        assert container.streams.audio[0].language == "eng"


def with_sound(path: Path, codec: str, *more: str) -> Path:
    """The clip's pictures with its sound in another codec, made by FFmpeg."""
    options = ["-y", "-i", str(CLIP), "-c:v", "copy", "-c:a", codec, "-strict", "-2", *more]
    subprocess.run(["ffmpeg", "-v", "error", *options, str(path)], check=True)
    return path


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
@pytest.mark.parametrize(
    ("given", "codec", "target"),
    [
        ("a.avi", "pcm_s16le", "b.mp4"),
        *[("a.mkv", f"pcm_{kind}", "b.mp4") for kind in ("s16le", "s16be", "s24le", "f32le")],
        ("a.mkv", "flac", "b.mov"),
        ("a.mkv", "libopus", "b.mov"),
    ],
)
def test_sound_that_is_refused_when_it_comes_to_it(tmp_path: Path, given: str, codec: str, target: str) -> None:
    """FFmpeg says that the container holds the codec, and then does not write it."""
    source = with_sound(tmp_path / given, codec)
    with noted("is encoded anew as AAC"):
        result = convert(source, tmp_path / target)
    with av.open(str(result)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        assert abs(container.streams.audio[0].duration * container.streams.audio[0].time_base - 2) < 0.1


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
@pytest.mark.parametrize(("codec", "target"), [("flac", "b.mp4"), ("pcm_s16le", "b.mov"), ("pcm_s24le", "b.mkv")])
def test_sound_that_the_container_takes_is_copied(tmp_path: Path, codec: str, target: str) -> None:
    source = with_sound(tmp_path / "a.mkv", codec)
    with notes() as told:
        result = convert(source, tmp_path / target)
    assert not told
    with av.open(str(source)) as ours, av.open(str(result)) as theirs:
        sounds = [b"".join(bytes(p) for p in file.demux(audio=0)) for file in (ours, theirs)]
    assert sounds[0] == sounds[1]


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_of_two_films_in_a_file_the_default_one_is_meant(tmp_path: Path) -> None:
    source = tmp_path / "a.mkv"
    streams = "-map 0:v -map 1:v -map 0:a -metadata:s:v:0 title=first -metadata:s:v:1 title=second"
    chosen = "-disposition:v:0 0 -disposition:v:1 default"
    inputs = ["-i", str(CLIP), "-f", "lavfi", "-i", "testsrc=size=64x48:duration=1"]
    subprocess.run(["ffmpeg", "-v", "error", *inputs, *streams.split(), *chosen.split(), str(source)], check=True)
    with noted("video stream 0"):
        result = convert(source, tmp_path / "b.mkv")
    with av.open(str(result)) as container:
        assert [s.metadata["title"] for s in container.streams.video] == ["second"]
        assert container.streams.video[0].width == 64
        assert len(container.streams.audio) == 1


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Matroska file with two languages of sound, two kinds of subtitles, chapters, a font, a cover, and tags."""
    path = tmp_path_factory.mktemp("rich") / "rich.mkv"
    cover = cv2.imencode(".jpg", picture(0))[1].tobytes()
    with av.open(str(CLIP)) as source, av.open(str(path), "w") as out:
        video = out.add_stream_from_template(source.streams.video[0])
        sound = [out.add_stream_from_template(source.streams.audio[0]) for _ in range(2)]
        texts: list[Any] = [out.add_stream("subrip"), out.add_stream("ass")]
        header = b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name\n\n[Events]\nFormat: Layer, Text\n"
        for text in texts:
            text.codec_context.subtitle_header = header
            text.time_base = Fraction(1, 1000)
        out.add_attachment("font.ttf", "application/x-truetype-font", b"not really a font")
        out.add_attachment("cover.jpg", "image/jpeg", cover)
        sound[0].metadata.update(language="eng")
        sound[1].metadata.update(language="ger", title="Kommentar")
        sound[1].disposition = av.stream.Disposition.comment
        texts[0].metadata.update(language="fre")
        texts[1].disposition = av.stream.Disposition.forced
        out.metadata.update(title="Rich", ARTIST="Blender")
        out.set_chapters(
            [
                {"id": n, "start": n * 1000, "end": (n + 1) * 960, "time_base": Fraction(1, 1000),
                 "metadata": {"title": name}}
                for n, name in enumerate(("one", "two"))
            ]
        )  # fmt: skip
        for packet in source.demux():
            if not packet.size or packet.pts < 0:
                continue
            data, pts, dts, duration, base = bytes(packet), packet.pts, packet.dts, packet.duration, packet.time_base
            for stream in [video] if packet.stream.type == "video" else sound:
                again = av.Packet(data)
                again.pts, again.dts, again.duration, again.time_base = pts, dts, duration, base
                again.is_keyframe = packet.is_keyframe
                again.stream = stream
                out.mux(again)
        for number, text in enumerate(texts):
            for begin in (100, 900):
                packet = av.Packet(f"0,0,Default,,0,0,0,,hello {begin}".encode() if number else b"hello %d" % begin)
                packet.pts = packet.dts = begin
                packet.duration, packet.time_base, packet.stream = 600, Fraction(1, 1000), text
                out.mux(packet)
    return path


def streams_of(path: Path) -> list[tuple[str, str | None]]:
    with av.open(str(path)) as container:
        return [(s.type, s.codec_context.name if s.codec_context else None) for s in container.streams]


def test_everything_comes_along_into_matroska(rich: Path, tmp_path: Path) -> None:
    with notes() as told:
        result = convert(rich, tmp_path / "a.mkv", cuts=(20,))
    assert not told
    assert streams_of(result) == streams_of(rich)
    for kind, count in (("audio", 2), ("subtitle", 2)):
        for number in range(count):
            assert packets(result, kind, number) == packets(rich, kind, number)
    with av.open(str(result)) as ours, av.open(str(rich)) as theirs:
        assert ours.chapters() == theirs.chapters()
        assert len(ours.chapters()) == 2
        assert ours.metadata["title"] == "Rich"
        assert ours.metadata["ARTIST"] == "Blender"
        for a, b in zip(ours.streams, theirs.streams, strict=True):
            assert a.disposition == b.disposition
            for key in ("language", "title", "filename", "mimetype"):
                assert a.metadata.get(key) == b.metadata.get(key)
        assert ours.streams.attachments[0].data == b"not really a font"
        assert [s.disposition for s in ours.streams.subtitles] == [s.disposition for s in theirs.streams.subtitles]
    assert packets(result, "video", 1) == packets(rich, "video", 1)


def test_what_mp4_cannot_hold_is_left_out_with_a_warning(rich: Path, tmp_path: Path) -> None:
    with noted("left out") as told:
        result = convert(rich, tmp_path / "a.mp4")
    assert [text.split(";")[0] for text in told] == [
        "a.mp4: subtitle stream 3 (subrip) is converted to mov_text",
        "a.mp4: subtitle stream 4 (ass) is converted to mov_text, without styles and places",
        "a.mp4: attachment 5 (font.ttf, application/x-truetype-font) is left out",
    ]
    kinds = [kind for kind, _ in streams_of(result) if kind != "data"]
    assert kinds == ["video", "audio", "audio", "subtitle", "subtitle", "video"]
    with av.open(str(result)) as container:
        assert [(c["start"], c["end"], c["metadata"]["title"]) for c in container.chapters()] == [
            (0, 1000, "one"),  # MP4 notes down only where chapters begin
            (1000, 1920, "two"),
        ]
        assert [s.language for s in container.streams.audio] == ["eng", "ger"]
    again = tmp_path / "b.mp4"
    with notes() as told:
        convert(result, again)
    assert not told
    assert [kind for kind, _ in streams_of(again) if kind != "data"] == kinds
    assert packets(again, "audio", 1) == packets(result, "audio", 1)


def test_subtitles_and_chapters_move_with_a_cut(rich: Path, tmp_path: Path) -> None:
    result = convert(rich, tmp_path / "a.mkv", start=Fraction(2, 5), end=Fraction(6, 5))
    assert [(t, d) for t, d, _ in packets(result, "subtitle")] == [
        (0, Fraction(3, 10)),
        (Fraction(1, 2), Fraction(3, 10)),
    ]
    with av.open(str(result)) as container:
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in container.chapters()]
    assert chapters == [(0, Fraction(56, 100)), (Fraction(3, 5), Fraction(4, 5))]


@pytest.fixture(scope="module")
def flash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of dark and silence, but for frame 50 and the sound that goes with it."""
    path = tmp_path_factory.mktemp("flash") / "flash.mov"
    return flash_film(path, frames=75, at=50, size=(64, 48), levels=(0, 255), keys=40)


@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".mkv", ".webm"])
def test_a_cut_stays_in_sync(flash: Path, tmp_path: Path, suffix: str) -> None:
    start, end = Fraction(33, 25) - Fraction(1, 100), Fraction(13, 5)
    result = convert(flash, tmp_path / f"a{suffix}", start=start, end=end, cuts=(10,))
    with open_source(result) as video:
        seen = [(f.pts * video.info.time_base, float(f.image.mean())) for f in video.frames()]
    assert (len(seen), seen[0][0]) == (32, 0)
    bright = next(time for time, light in seen if light > 128)
    assert bright == Fraction(17, 25)
    assert abs(loud_from(result) - float(bright)) < 0.015
    with av.open(str(result)) as container:
        parts = [frame.pts * frame.time_base for frame in container.decode(audio=0)]
    assert float(parts[-1]) < 1.3


def test_a_transport_stream_is_moved_to_zero(tmp_path: Path) -> None:
    source = tmp_path / "a.ts"
    with av.open(str(CLIP)) as clip, av.open(str(source), "w", container_options={"output_ts_offset": "5"}) as out:
        streams = {s.index: out.add_stream_from_template(s) for s in clip.streams}
        for packet in clip.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    with open_source(source) as video:
        assert video.info.start > 1
        frames = list(video.frames())
        assert digest(next(video.frames(start=Fraction(1)))) == digest(
            next(f for f in frames if f.pts * video.info.time_base >= video.info.start + 1)
        )
    result = convert(source, tmp_path / "b.mp4")
    ours, theirs = times_of(result), times_of(source)
    assert {a - b for a, b in zip(ours, theirs, strict=True)} == {ours[0] - theirs[0]}
    assert 0 <= ours[0] < Fraction(1, 25)
    sound = packets(result, "audio")
    assert [d for _, _, d in sound][5:] == [d for _, _, d in packets(CLIP, "audio")][5:]
    gap = packets(source, "audio")[5][0] - theirs[0]
    assert abs((sound[5][0] - ours[0]) - gap) < Fraction(1, 20000)
