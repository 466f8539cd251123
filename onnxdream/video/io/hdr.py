"""HDR10's static metadata: the display a film was graded on (SMPTE ST 2086) and how bright it gets (CTA-861.3).

Encoders take it as options of their own. Containers take it with a stream's parameters, which PyAV only copies from a
file that it reads; so `template` makes such a file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING, Any

import av
import numpy as np

if TYPE_CHECKING:
    from av.stream import Stream

# What a frame may carry that is no longer true once the picture has changed, or that no encoder here takes.
_LOST = {
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "DOVI_METADATA": "Dolby Vision metadata",
    "DYNAMIC_HDR_PLUS": "HDR10+ metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid metadata",
    "AMBIENT_VIEWING_ENVIRONMENT": "the ambient viewing environment",
    "A53_CC": "closed captions within the pictures",
    "STEREO3D": "the marking as stereoscopic",
    "SPHERICAL": "the marking as spherical (360°)",
}
# Matroska's elements.
_SEGMENT, _TRACKS, _TRACK, _VIDEO, _COLOUR = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0", b"\x55\xb0"
_MAX_CLL, _MAX_FALL, _MASTERING = b"\x55\xbc", b"\x55\xbd", b"\x55\xd0"
_FIRST_NUMBER = 0x55D1  # of the mastering display: x and y of red, green, blue and white, then most and least light


@dataclass(frozen=True)
class HdrMetadata:
    """HDR10's static metadata.

    Attributes:
        display: The mastering display: x and y of red, green, blue and white in CIE 1931, then its least and most
            light in cd/m²; None where the source says nothing.
        light: The most light of a pixel (MaxCLL) and of a frame's average (MaxFALL), in cd/m²; None likewise.
    """

    display: tuple[Fraction, ...] | None = None
    light: tuple[int, int] | None = None


def hdr_of(frame: av.VideoFrame) -> HdrMetadata | None:
    """The static metadata that a frame carries, from its stream, its container or itself; None without any."""
    carried: Any = frame.side_data
    display, light = carried.get("MASTERING_DISPLAY_METADATA"), carried.get("CONTENT_LIGHT_LEVEL")
    numbers = None
    if display is not None:
        values = np.frombuffer(bytes(display), np.int32)[:22].tolist()
        # Ten fractions, then whether colours and whether light are said.
        if all(values[20:]) and all(values[1:20:2]):
            numbers = tuple(Fraction(a, b) for a, b in zip(values[:20:2], values[1:20:2], strict=True))
    levels = None if light is None else tuple(np.frombuffer(bytes(light), np.uint32)[:2].tolist())
    return HdrMetadata(numbers, levels) if numbers or levels else None


def lost_side_data(frame: av.VideoFrame) -> tuple[str, ...]:
    """In words, what a frame carries that its dream cannot keep."""
    carried: Any = frame.side_data
    return tuple(dict.fromkeys(words for name, words in _LOST.items() if carried.get(name) is not None))


def encoder_options(codec: str, hdr: HdrMetadata) -> dict[str, str]:
    """The option of an encoder that puts the metadata into its stream; none for encoders that have no place for it."""
    named = {
        "libx265": ("x265-params", "master-display", "max-cll"),
        "libx264": ("x264-params", "mastering-display", "cll"),
        "libsvtav1": ("svtav1-params", "mastering-display", "content-light"),
    }
    if codec not in named:
        return {}
    option, display, light = named[codec]
    found = []
    if hdr.display is not None:
        colors, (least, most) = hdr.display[:8], hdr.display[8:]
        if codec == "libsvtav1":
            red, green, blue, white = (f"({float(x):.5f},{float(y):.5f})" for x, y in _pairs(colors))
            lights = f"({float(most):.4f},{float(least):.4f})"
        else:
            red, green, blue, white = (f"({round(x * 50000)},{round(y * 50000)})" for x, y in _pairs(colors))
            lights = f"({round(most * 10000)},{round(least * 10000)})"
        found.append(f"{display}=G{green}B{blue}R{red}WP{white}L{lights}")
    if hdr.light is not None:
        found.append(f"{light}={hdr.light[0]},{hdr.light[1]}")
    return {option: ":".join(found)}


def _pairs(numbers: tuple[Fraction, ...]) -> list[tuple[Fraction, Fraction]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


@contextmanager
def template(stream: Stream, hdr: HdrMetadata) -> Iterator[Stream]:
    """A stream like `stream` that has the metadata among its parameters."""
    written = BytesIO()
    with av.open(written, "w", format="matroska", container_options={"live": "1"}) as out:
        target = out.add_stream_from_template(stream, opaque=True)
        packet = next(stream.container.demux(stream))  # type: ignore[attr-defined]
        packet.stream = target
        out.mux(packet)
    extra = b""
    if hdr.light is not None:
        extra += _element(_MAX_CLL, struct.pack(">I", hdr.light[0])) + _element(
            _MAX_FALL, struct.pack(">I", hdr.light[1])
        )
    if hdr.display is not None:
        numbers = (*hdr.display[:8], hdr.display[9], hdr.display[8])
        extra += _element(_MASTERING, b"".join(
            _element(struct.pack(">H", _FIRST_NUMBER + place), struct.pack(">d", number))
            for place, number in enumerate(map(float, numbers))
        ))  # fmt: skip
    data = _with_added(written.getvalue(), [_SEGMENT, _TRACKS, _TRACK, _VIDEO, _COLOUR], extra)
    with av.open(BytesIO(data), format="matroska") as container:
        yield container.streams.video[0]


def _element(name: bytes, content: bytes) -> bytes:
    """An element of Matroska."""
    return name + struct.pack(">Q", len(content) | 1 << 56) + content


def _with_added(data: bytes, path: list[bytes], extra: bytes) -> bytes:
    """Elements in a row, with `extra` added at the end of the one that `path` leads to."""
    if not path:
        return data + extra
    at = 0
    while at < len(data):
        name = data[at : at + 9 - data[at].bit_length()]
        begin = at + len(name)
        length = 9 - data[begin].bit_length()
        size = int.from_bytes(data[begin : begin + length], "big") - (1 << 7 * length)
        begin += length
        end = len(data) if size == (1 << 7 * length) - 1 else begin + size  # all ones: unknown
        if name == path[0]:
            return data[:at] + _element(name, _with_added(data[begin:end], path[1:], extra)) + data[end:]
        at = end
    return data + _element(path[0], _with_added(b"", path[1:], extra))
