"""What comes along from one container into another: subtitles in the form it holds, and names for what it cannot hold.

Subtitles lost from MP4 to Matroska and back: mifi/lossless-cut#418, mdhiggins/sickbeard_mp4_automator#1555.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from helpers.breadth import everyday
from helpers.films import convert, picture, write_video
from helpers.jobs import film
from helpers.notes import notes
from onnxdream.video.io.mux import timecode_after

HEADER = b"""[Script Info]
ScriptType: v4.00+
PlayResX: 384
PlayResY: 288

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
LINES = [(100, 300, "hello"), (500, 200, "two\\Nlines"), (720, 200, "{\\i1}slanted{\\i0} é")]


def with_subtitles(path: Path, *codecs: str) -> Path:
    """A second of film with texts in each of these forms."""
    write_video(path.with_name("pictures.mkv"), [picture(n) for n in range(25)])
    with av.open(str(path.with_name("pictures.mkv"))) as pictures, av.open(str(path), "w") as out:
        video = out.add_stream_from_template(pictures.streams.video[0])
        texts: list[Any] = [out.add_stream(codec) for codec in codecs]
        for number, text in enumerate(texts):
            text.codec_context.subtitle_header = HEADER
            text.codec_context.time_base = text.time_base = Fraction(1, 1000)
            text.metadata["language"] = ("eng", "ger", "fre")[number]
        if path.suffix == ".mkv":
            out.add_attachment("sans.ttf", "application/x-truetype-font", b"not really a font")
        for packet in pictures.demux():
            if packet.size:
                packet.stream = video
                out.mux(packet)
        for text in texts:
            for begin, length, line in LINES:
                events = av.subtitles.subtitle.SubtitleSet.create(f"0,0,Default,,0,0,0,,{line}".encode(), 0, length)
                packet = text.codec_context.encode_subtitle(events)
                packet.pts = packet.dts = begin
                packet.duration, packet.time_base, packet.stream = length, Fraction(1, 1000), text
                out.mux(packet)
    return path


def texts_of(path: Path, number: int = 0) -> list[tuple[Fraction, Fraction, str]]:
    """(begin, duration, text) of what subtitles show; line breaks and slants as in SRT."""
    found = []
    with av.open(str(path)) as container:
        stream: Any = container.streams.subtitles[number]
        for packet in container.demux(stream):
            read = stream.decode2(packet) if packet.size else None
            if read and packet.duration and (text := b"".join(r.ass for r in read).decode().split(",", 8)[8]):
                for tag, shown in {"{\\i1}": "<i>", "{\\i0}": "</i>", "{\\r}": "</i>", "\\N": "\n"}.items():
                    text = text.replace(tag, shown)
                found.append((packet.pts * packet.time_base, packet.duration * packet.time_base, text))
    return found


SHOWN = [
    (Fraction(begin, 1000), Fraction(length, 1000), text)
    for (begin, length, _), text in zip(LINES, ["hello", "two\nlines", "<i>slanted</i> é"], strict=True)
]


@pytest.mark.parametrize(("given", "codec", "target", "held"), everyday([
    ("a.mp4", "mov_text", "b.mkv", "subrip"), ("a.mkv", "subrip", "b.mp4", "mov_text"),
    ("a.mkv", "ass", "b.mov", "mov_text"), ("a.mkv", "subrip", "b.mov", "mov_text"),
    ("a.mp4", "mov_text", "b.webm", "webvtt"), ("a.webm", "webvtt", "b.mp4", "mov_text"),
    ("a.mkv", "ass", "b.webm", "webvtt"), ("a.mov", "mov_text", "b.mkv", "subrip"),
], 2))  # fmt: skip
def test_my_subtitles_are_still_there(tmp_path: Path, given: str, codec: str, target: str, held: str) -> None:
    source = film_in_webm(tmp_path / given) if given == "a.webm" else with_subtitles(tmp_path / given, codec)
    with notes() as told:
        result = convert(source, tmp_path / target)
    without = ", without styles and places" if codec == "ass" else ""
    assert [text.split("; ")[0] for text in told if "subtitle" in text] == [
        f"{target}: subtitle stream 1 ({codec}) is converted to {held}" + without
    ]
    assert texts_of(result) == SHOWN
    with av.open(str(result)) as container:
        stream: Any = container.streams.subtitles[0]
        assert stream.codec_context.codec.canonical_name == held
        assert stream.language == "eng"


def film_in_webm(path: Path) -> Path:
    with notes():
        return convert(with_subtitles(path.with_suffix(".mkv"), "subrip"), path)


def test_subtitles_in_another_form_are_cut_with_the_film(tmp_path: Path) -> None:
    source = with_subtitles(tmp_path / "a.mp4", "mov_text")
    result = convert(source, tmp_path / "b.mkv", start=Fraction(1, 5), end=Fraction(4, 5))
    assert texts_of(result) == [
        (0, Fraction(1, 5), "hello"),
        (Fraction(3, 10), Fraction(1, 5), "two\nlines"),
        (Fraction(52, 100), Fraction(8, 100), "<i>slanted</i> é"),
    ]


def test_what_is_left_out_is_called_what_it_is(tmp_path: Path) -> None:
    source = with_subtitles(tmp_path / "a.mkv", "subrip", "ass")
    with notes() as told:
        result = convert(source, tmp_path / "b.mp4")
    assert [text.split("; ")[0] for text in told] == [
        "b.mp4: subtitle stream 1 (subrip) is converted to mov_text",
        "b.mp4: subtitle stream 2 (ass) is converted to mov_text, without styles and places",
        "b.mp4: attachment 3 (sans.ttf, application/x-truetype-font) is left out",
    ]
    assert texts_of(result, 1) == SHOWN


@pytest.mark.parametrize("target", ["b.mkv", "b.webm", "b.mp4", "b.mov"])
def test_chapters_are_kept_without_a_word_about_their_text(tmp_path: Path, target: str) -> None:
    source = film(tmp_path / "a.mp4")
    with notes() as told:
        result = convert(source, tmp_path / target)
    assert all("is encoded anew" in text or "is converted" in text for text in told)
    with av.open(str(result)) as container:
        assert [c["metadata"]["title"] for c in container.chapters()] == ["one", "two"]


@pytest.mark.parametrize("target", ["b.mkv", "b.mov"])
def test_a_timecode_track_is_a_timecode_track(tmp_path: Path, target: str) -> None:
    code = "10:20:30:00"
    source = write_video(
        tmp_path / "a.mov", [picture(n) for n in range(5)], setup=lambda stream: stream.metadata.update(timecode=code)
    )
    with notes() as told:
        result = convert(source, tmp_path / target)
    left_out = f"timecode track 1 (from {code}) is left out; where it begins stays as a tag"
    assert told == ([] if target == "b.mov" else [f"b.mkv: {left_out}"])
    with av.open(str(result)) as container:
        tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
    assert tags["timecode"] == code
    with notes():
        late = convert(source, tmp_path / f"late{Path(target).suffix}", start=Fraction(3, 25))
    with av.open(str(late)) as container:
        assert "10:20:30:03" in container.streams.video[0].metadata.values()


@pytest.mark.parametrize(
    ("code", "frames", "rate", "later"),
    [
        ("01:00:00:00", 30, Fraction(25), "01:00:01:05"),
        ("23:59:59:24", 1, Fraction(25), "00:00:00:00"),
        ("00:00:59;29", 1, Fraction(30000, 1001), "00:01:00;02"),
        ("00:09:59;29", 1, Fraction(30000, 1001), "00:10:00;00"),
        ("00:00:00;00", 107892, Fraction(30000, 1001), "01:00:00;00"),
        ("00:00:59;59", 1, Fraction(60000, 1001), "00:01:00;04"),
        ("01:00:00:00", 24, Fraction(24000, 1001), "01:00:01:00"),
        ("unknown", 5, Fraction(25), "unknown"),
    ],
)
def test_timecodes_count_frames(code: str, frames: int, rate: Fraction, later: str) -> None:
    assert timecode_after(code, frames, rate) == later
