"""HDR films stay HDR10 films; what cannot be true of a dream is said to go.

HDR that is no longer recognised as such in results: nagadomi/nunif#497, lisamelton/other_video_transcoding#81.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from helpers.breadth import everyday
from helpers.films import convert, picture, write_video
from helpers.notes import notes
from onnxdream.video.io.hdr import HdrMetadata
from onnxdream.video.io.open import Encoding, open_source

DISPLAY = (34000, 16000, 13250, 34500, 7500, 3000, 15635, 16450)  # red, green, blue and white, in 1/50000
METADATA = HdrMetadata((*(Fraction(n, 50000) for n in DISPLAY), Fraction(1, 200), Fraction(1000)), (997, 203))
PARAMS = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=997,203"
# A NAL unit: HDR10+ of one window without curves.
HDR10_PLUS = bytes.fromhex("4e01 04 16 b5003c000104 00 40") + bytes(14) + b"\x80"


def dolby_vision() -> bytes:
    """A NAL unit of Dolby Vision's metadata: polynomials of the first order for each channel, nothing else."""

    def golomb(*numbers: int) -> str:
        return "".join(f"{n + 1:b}".zfill(2 * (n + 1).bit_length() - 1) for n in numbers)

    bits = "000010" + "00000000000" + "00010000" + "1"  # type, format, profile and level, a sequence's facts follow
    bits += "000" + golomb(23) + "010" + golomb(2, 2, 4) + "000001"  # 23 bits of a fraction, depths, no residual
    bits += "00" + golomb(0, 0, 0)  # no display's metadata; new curves
    bits += 3 * (golomb(0) + f"{0:010b}{1023:010b}") + golomb(0, 0)  # from black to white in one piece
    bits += 3 * (golomb(0, 0) + "0" + golomb(0) + "0" * 23 + golomb(1) + "0" * 23) + "1"
    bits += "0" * (-len(bits) % 8)
    payload = b"\x19" + int(bits, 2).to_bytes(len(bits) // 8, "big") + b"\x12\x34\x56\x78\x80"
    return b"\x7c\x01" + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", payload)


def hdr_film(path: Path, before: bytes = b"", after: bytes = b"", params: str = PARAMS) -> Path:
    """Three frames of HEVC in PQ, with NAL units before and after those of each packet."""

    def tags(stream: Any) -> None:
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, 16, 9, 1

    plain = write_video(path.with_suffix(".plain.mkv"), [picture(n, 96, 64, deep=True) for n in range(3)],
                        codec="libx265", pix_fmt="yuv420p10le", setup=tags,
                        options={"x265-params": f"log-level=none:bframes=0:{params}"})  # fmt: skip
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                first, last = (len(unit).to_bytes(4, "big") + unit if unit else b"" for unit in (before, after))
                again = av.Packet(first + bytes(packet) + last)
                again.pts, again.dts, again.time_base = packet.pts, packet.dts, packet.time_base
                again.is_keyframe, again.stream = packet.is_keyframe, stream
                out.mux(again)
    plain.unlink()
    return path


def side_data(path: Path, of: str) -> dict[str, dict[str, Any]]:
    """What ffprobe says of the stream's or the first frame's side data, by type."""
    asked = [f"-show_{of}", "-read_intervals", "%+#1"]
    text = subprocess.run(["ffprobe", "-v", "error", "-of", "json", *asked, str(path)], check=True, capture_output=True)
    return {d["side_data_type"]: d for d in json.loads(text.stdout)[of][0].get("side_data_list", [])}


@pytest.mark.skipif(not shutil.which("ffprobe"), reason="needs ffprobe")
@pytest.mark.parametrize(("target", "codec"), everyday([
    ("a.mp4", None), ("a.mov", None), ("a.mkv", None), ("a.webm", None), ("a.mov", "prores"), ("a.mp4", "h264"),
    ("a.mkv", "ffv1"), ("a.webm", "vp9"),
], 3))  # fmt: skip
def test_my_television_still_knows_it_is_hdr(tmp_path: Path, target: str, codec: str | None) -> None:
    source = hdr_film(tmp_path / "source.mkv")
    result = convert(source, tmp_path / target, encoding=Encoding(codec=codec), cuts=(1,))
    with open_source(result) as video:
        hdr = video.info.hdr
        assert hdr is not None
        assert hdr.light == METADATA.light
        for ours, theirs in zip(hdr.display or (), METADATA.display or (), strict=True):
            assert abs(ours - theirs) < 1.3e-4  # AV1 rounds light to 1/16384
        assert (video.info.color.primaries, video.info.color.transfer, video.info.color.matrix) == (9, 16, 9)
    # Other codecs keep it in the container alone, or where not every ffprobe looks for it.
    for of in ("streams", "frames") if codec is None else ("streams",):
        found = side_data(result, of)
        display = found["Mastering display metadata"]
        names = ("red_x", "red_y", "green_x", "green_y", "blue_x", "blue_y", "white_point_x", "white_point_y")
        for name, number in zip(names, DISPLAY, strict=True):
            assert abs(Fraction(display[name]) - Fraction(number, 50000)) < 2e-5, name
        assert abs(Fraction(display["min_luminance"]) - Fraction(1, 200)) < 1e-4
        assert Fraction(display["max_luminance"]) == 1000
        light = found["Content light level metadata"]
        assert (light["max_content"], light["max_average"]) == (997, 203)


def test_a_film_that_only_says_how_bright_it_is(tmp_path: Path) -> None:
    result = convert(hdr_film(tmp_path / "a.mkv", params="max-cll=997,203"), tmp_path / "b.mp4")
    with open_source(result) as video:
        assert video.info.hdr == HdrMetadata(None, (997, 203))


@pytest.mark.parametrize(("units", "words"), [
    ({"before": HDR10_PLUS}, "HDR10+ metadata"),
    ({"after": dolby_vision()}, "Dolby Vision metadata"),
    ({"before": HDR10_PLUS, "after": dolby_vision()}, "Dolby Vision metadata, HDR10+ metadata"),
])  # fmt: skip
def test_dynamic_metadata_is_said_to_go(tmp_path: Path, units: dict[str, bytes], words: str) -> None:
    source = hdr_film(tmp_path / "a.mkv", **units)
    with notes() as told:
        result = convert(source, tmp_path / "b.mp4")
    assert told == [f"{result}: {words} would not be true of the dream and is dropped"]
    with open_source(result) as video:
        assert video.info.side_data == ()
        assert video.info.hdr == METADATA


def test_pictures_cannot_say_that_they_are_hdr(tmp_path: Path) -> None:
    source = hdr_film(tmp_path / "a.mkv")
    with notes() as told:
        convert(source, tmp_path / "frames")
    assert [text.partition(": ")[2] for text in told] == [
        "cannot say that its colours are HDR; .mp4, .mkv, .mov and .webm can"
    ]
