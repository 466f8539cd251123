"""Colours and depth, from a source into a result and back."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from helpers.breadth import everyday
from helpers.films import BT601, BT709, BT2020, convert, encode, frames_of, info_of, psnr, write_video
from onnxdream.video.io.open import ColorTags, Encoding, open_source


def codes(color: tuple[float, float, float], matrix: int, full: bool, depth: int) -> list[float]:
    """Y, Cb, Cr by the book, from R, G, B in 0..1."""
    red, blue = {BT709: (0.2126, 0.0722), BT601: (0.299, 0.114), BT2020: (0.2627, 0.0593)}[matrix]
    r, g, b = color
    luma = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    if full:
        top = 2**depth - 1
        return [luma * top, cb * top + 2 ** (depth - 1), cr * top + 2 ** (depth - 1)]
    scale = 2 ** (depth - 8)
    return [(16 + 219 * luma) * scale, (128 + 224 * cb) * scale, (128 + 224 * cr) * scale]


FLAT = [(0, 0, 0), (1, 1, 1), (0, 0, 0.9), (0, 0.9, 0), (0.9, 0, 0), (0.5, 0.5, 0.5), (0.2, 0.6, 0.8), (1, 1, 0)]


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", everyday([BT709, BT601, BT2020], 3))
def test_flat_colours_come_back(tmp_path: Path, matrix: int, full: bool, bits: int) -> None:
    tags = ColorTags(matrix, matrix, matrix, 2 if full else 1)
    kind, top = (np.uint8, 255) if bits == 8 else (np.uint16, 65535)
    info = info_of(bits=bits, color=tags)
    images = [np.broadcast_to(np.rint(np.array(c) * top), (48, 64, 3)).astype(kind) for c in FLAT]
    lossless = Encoding(options={"crf": "0"} if bits == 8 else {"x265-params": "lossless=1"})
    path = encode(((im, n, None) for n, im in enumerate(images)), info, tmp_path / "a.mp4", encoding=lossless)
    with open_source(path) as video:
        assert (video.info.bits, video.info.color) == (bits, tags)
        shown = [f.image for f in video.frames()]
    for image, back in zip(images, shown, strict=True):
        assert back.dtype == kind
        assert np.abs(back.astype(int) - image).max() <= (2 if bits == 8 else 200)
    with av.open(str(path)) as container:
        for frame, color in zip(container.decode(video=0), FLAT, strict=True):
            for plane, code in zip(frame.planes, codes(color, matrix, full, bits), strict=True):
                assert abs(int(np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)[5]) - code) <= 1


@pytest.mark.parametrize(("width", "matrix"), [(64, BT601), (1280, BT709)])
def test_untagged_colours_are_taken_as_players_take_them(tmp_path: Path, width: int, matrix: int) -> None:
    image = np.full((16, width, 3), (40, 180, 90), np.uint8)
    path = encode([(image, 0, None)], info_of(width, 16, color=ColorTags()), tmp_path / "a.mkv")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) in ((2, 0), (2, 1))
        seen = [int(np.frombuffer(p, np.uint8)[5]) for p in frame.planes]
    expected = codes((40 / 255, 180 / 255, 90 / 255), matrix, False, 8)
    assert max(abs(a - b) for a, b in zip(seen, expected, strict=True)) <= 2
    assert np.abs(frames_of(path)[0].image[8, 8].astype(int) - image[0, 0]).max() <= 3


def test_ten_bits_stay_ten_bits(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(20000, 24000, 256).astype(np.uint16)[None, :, None], 3, 2).repeat(64, 0)
    source = write_video(tmp_path / "a.mkv", [ramp] * 3, codec="ffv1", pix_fmt="yuv420p10le")
    frames = frames_of(source)
    assert frames[0].image.dtype == np.uint16
    result = convert(source, tmp_path / "b.mp4")
    with av.open(str(result)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
    back = frames_of(result)[0].image
    assert len(np.unique(back[32, :, 1])) > 40  # 8 bits would leave 17
    assert psnr(back, frames[0].image) > 60


def test_lossless_results_are_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for alpha, deep in [(False, False), (True, False), (False, True), (True, True)]:
        kind, top = (np.uint16, 65536) if deep else (np.uint8, 256)
        frames = [
            (rng.integers(0, top, (33, 47, 3), dtype=kind), n, rng.integers(0, top, (33, 47), dtype=kind))
            for n in range(3)
        ]
        name = {(False, False): "bgr0", (True, False): "bgra", (False, True): "gbrp16le", (True, True): "gbrap16le"}
        info = info_of(47, 33, bits=16 if deep else 8, alpha=alpha)
        encoding = Encoding(codec="ffv1", pix_fmt=name[alpha, deep])
        shown = frames_of(
            encode(((i, n, a if alpha else None) for i, n, a in frames), info, tmp_path / "a.mkv", encoding=encoding)
        )
        for (image, _, opacity), back in zip(frames, shown, strict=True):
            np.testing.assert_array_equal(back.image, image)
            if alpha:
                np.testing.assert_array_equal(back.alpha, opacity)
