"""What a film is made of stays: bits, chroma, RGB. What the result cannot hold is said, in one line each.

Films of 10 bits or 4:4:4 that come out duller, or with other colours: k4yt3x/video2x#117, the-database/VideoJaNai#52,
AaronFeng753/Waifu2x-Extension-GUI#593; RGB that changes on its way to YCbCr: k4yt3x/video2x#403.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.films import convert, frames_of, picture, psnr, write_video
from helpers.notes import notes
from onnxdream.video.io.open import Encoding, check_encoding, open_source

FFV1_KEEPS = "; --codec ffv1 in .mkv keeps them as they are"


def film(path: Path, pix_fmt: str, codec: str = "ffv1", **options: Any) -> Path:
    deep = "1" in pix_fmt.partition("p")[2]
    return write_video(path, [picture(n, deep=deep) for n in range(2)], codec=codec, pix_fmt=pix_fmt, **options)


def said(told: list[str]) -> list[str]:
    return [text.partition(": ")[2] for text in told]


KEPT = [
    ("yuv444p", "a.mp4", None, "yuv444p"),
    ("yuv422p10le", "a.mp4", None, "yuv422p10le"),
    ("yuv444p12le", "a.mov", None, "yuv444p12le"),
    ("yuv444p", "a.webm", None, "yuv444p"),
    ("yuv422p16le", "a.mkv", "ffv1", "yuv422p16le"),
    ("bgr0", "a.mkv", "ffv1", "bgr0"),
    ("gbrp12le", "a.mkv", "ffv1", "gbrp12le"),
    ("yuv411p", "a.mkv", "ffv1", "yuv411p"),
    ("yuv440p", "a.mkv", "ffv1", "yuv440p"),
    ("yuv411p", "a.mp4", None, "yuv422p"),  # all that it has, and some more
    ("gray", "a.mp4", None, "yuv420p"),
]


@pytest.mark.parametrize(("pix_fmt", "target", "codec", "result"), everyday(KEPT, 3))
def test_my_film_keeps_its_bits_and_its_chroma(
    tmp_path: Path, pix_fmt: str, target: str, codec: str | None, result: str
) -> None:
    source = film(tmp_path / "source.mkv", pix_fmt)
    with notes() as told:
        path = convert(source, tmp_path / target, encoding=Encoding(codec=codec))
    assert said(told) == []
    with open_source(path) as video:
        assert video.info.pix_fmt == result
    for before, after in zip(frames_of(source), frames_of(path), strict=True):
        if codec == "ffv1" and result == pix_fmt:
            np.testing.assert_array_equal(before.image, after.image)
        assert psnr(before.image, after.image) > 38


LOST = [
    ("yuv444p16le", "a.mp4", None, [f"16 bits per channel become 12{FFV1_KEEPS}"]),
    ("yuv420p12le", "a.webm", None, [f"12 bits per channel become 10{FFV1_KEEPS}"]),
    ("yuv444p", "a.mp4", "mpeg4", [f"chroma of 4:4:4 becomes 4:2:0{FFV1_KEEPS}"]),
    ("yuv444p10le", "a.webm", None, [f"chroma of 4:4:4 becomes 4:2:0{FFV1_KEEPS}"]),
    ("yuv420p10le", "a.mp4", "mpeg4", [f"10 bits per channel become 8{FFV1_KEEPS}"]),
    ("bgr0", "a.mp4", None, [f"RGB becomes YCbCr 4:4:4{FFV1_KEEPS}"]),
    ("gbrp16le", "a.mp4", None, [f"16 bits per channel become 12{FFV1_KEEPS}", f"RGB becomes YCbCr 4:4:4{FFV1_KEEPS}"]),
    ("yuv420p10le", "a.gif", None, ["10 bits per channel become 8"]),
    ("yuv420p10le", "f_%03d.jpg", None, ["10 bits per channel become 8"]),
    ("yuv420p10le", "frames", None, []),
    ("bgr0", "a.gif", None, []),
    ("bgra", "a.gif", None, ["GIF has no half opacity: pixels become opaque or transparent; .webp keeps it"]),
    ("bgra", "a.webp", None, []),
    ("bgra", "frames", None, []),
    ("bgra", "f_%03d.jpg", None, ["cannot hold opacity, which is laid over white; .mov and .webm can"]),
    ("yuva444p", "a.mp4", None, ["cannot hold opacity, which is laid over white; .mov and .webm can"]),
    ("yuva444p", "a.webm", None, [f"chroma of 4:4:4 becomes 4:2:0{FFV1_KEEPS}"]),
    ("yuva444p10le", "a.mov", None, []),
]  # fmt: skip


@pytest.mark.parametrize(("pix_fmt", "target", "codec", "lines"), everyday(LOST, 2))
def test_what_is_not_kept_is_said(
    tmp_path: Path, pix_fmt: str, target: str, codec: str | None, lines: list[str]
) -> None:
    source = film(tmp_path / "source.mkv", pix_fmt)
    with open_source(source) as video, notes() as told:
        check_encoding(tmp_path / target, video.info, Encoding(codec=codec))
    assert said(told) == lines


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    everyday([("a.mkv", "ffv1", "bgr0"), ("a.mkv", "libx264rgb", "rgb24"), ("a.mov", "png", "rgb24")], 2),
)
def test_rgb_becomes_colours_that_players_know(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    """Limited range and a matrix by name, and the same picture as before."""
    options = {"crf": "0"} if codec == "libx264rgb" else {}
    source = film(tmp_path / name, pix_fmt, codec, options=options)
    result = convert(source, tmp_path / "result.mp4")
    with av.open(str(result)) as container:
        frame = next(container.decode(video=0))
        assert (frame.format.name, frame.color_range, frame.colorspace) == ("yuv444p", 1, 1)
    for number, frame in enumerate(frames_of(result)):
        assert psnr(frame.image, picture(number)) > 40


@pytest.mark.parametrize(("target", "lines"), [
    ("a.gif", ["pixels of 4/3 cannot be noted down in pictures; they will be shown square"]),
    ("frames", ["pixels of 4/3 cannot be noted down in pictures; they will be shown square"]),
    ("a.mp4", []),
])  # fmt: skip
def test_pixels_that_are_not_square_in_pictures(tmp_path: Path, target: str, lines: list[str]) -> None:
    source = film(tmp_path / "source.mp4", "yuv420p", "libx264",
                  setup=lambda s: setattr(s.codec_context, "sample_aspect_ratio", Fraction(4, 3)))  # fmt: skip
    with open_source(source) as video, notes() as told:
        check_encoding(tmp_path / target, video.info, Encoding())
    assert said(told) == lines


def test_half_opacity_in_a_webm_of_a_film_with_full_chroma(tmp_path: Path) -> None:
    source = film(tmp_path / "source.mkv", "yuva444p")
    frame = frames_of(convert(source, tmp_path / "a.webm"))[0]
    assert frame.alpha is not None
    assert psnr(frame.image, picture(0)) > 33


def test_a_film_whose_later_frames_have_no_opacity(tmp_path: Path) -> None:
    """They are opaque. FFmpeg's decoder of QuickTime's PNG gives each frame as it is."""
    source = tmp_path / "a.mov"
    with av.open(str(source), "w") as out:
        stream: Any = out.add_stream("png", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgba"
        for number, pix_fmt in enumerate(("rgba", "rgb24", "gray")):
            encoder: Any = av.CodecContext.create("png", "w")
            encoder.width, encoder.height, encoder.pix_fmt = 64, 48, pix_fmt
            encoder.time_base = Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                packet.stream = stream
                packet.pts = packet.dts = number
                packet.time_base = Fraction(1, 25)
                out.mux(packet)
    frames = frames_of(source)
    assert [f.alpha is not None and int(f.alpha.min()) for f in frames] == [255, 255, 255]
    np.testing.assert_array_equal(frames[1].image, picture(1))
