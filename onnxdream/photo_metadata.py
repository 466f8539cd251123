"""What a photograph's file says besides its pixels: EXIF, XMP, IPTC, resolution and texts, read and written."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .exif import DETAILS, Exif, Tag

SETTINGS_KEY = "onnxdream"
LONGEST_SEGMENT = 65533  # bytes that a JPEG can hold of EXIF, XMP or IPTC
_XMP_KEY = "XML:com.adobe.xmp"
_JPEG_XMP, _JPEG_IPTC = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
_SOFTWARE = 11  # what processed the picture last; the camera's or editor's own is another tag
_DESCRIPTION, _ORIENTATION, _ARTIST, _COPYRIGHT = 270, 274, 315, 33432
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_WIDTH, _HEIGHT = 40962, 40963  # among the details
_XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG, _ICC_TAG = 700, 33723, 34377, 34675
_IPTC_RESOURCE = 0x0404  # among the resources of Photoshop
# Texts of a PNG that EXIF has places for.
TEXT_TAGS = {"Author": _ARTIST, "Copyright": _COPYRIGHT, "Description": _DESCRIPTION}
# Tags of a TIFF that say where its pixels lie and how they are stored, or that go elsewhere, among its EXIF tags.
_STRUCTURE = {
    *range(254, 260), 262, 263, 266, _ORIENTATION, 273, 277, 278, 279, 280, 281, 284, *range(288, 294), 297, 301,
    *range(317, 326), *range(330, 349), *range(512, 522), *range(529, 533), _XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG,
    _ICC_TAG, 37724,
}  # fmt: skip
# What a photograph's XMP says of pictures and films behind it in the file, which a dream does not have.
_MORE_IN_FILE = re.compile(rb'\s(GCamera:(MicroVideo|MotionPhoto)\w*|hdrgm:\w+)="[^"]*"')


@dataclass(frozen=True)
class Metadata:
    """What a picture's file says besides its pixels; all of it is empty where it says nothing.

    Attributes:
        exif: EXIF, without orientation and thumbnail, as in a JPEG.
        xmp: An XMP packet.
        iptc: IPTC records.
        dpi: Pixels an inch, horizontally and vertically.
        texts: A PNG's texts by keyword, and the comment of a JPEG or GIF as "Comment".
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    dpi: tuple[float, float] | None = None
    texts: tuple[tuple[str, str], ...] = ()


def read_metadata(image: Image.Image) -> Metadata:
    """The metadata of a picture that Pillow has opened; what is damaged of it is left out."""
    info = image.info
    exif = Exif.read(_raw_exif(info))
    resources = info.get("photoshop")
    iptc = resources.get(_IPTC_RESOURCE, b"") if isinstance(resources, dict) else b""
    for name in ("iptc", "8bim", "app13"):  # as ImageMagick and ExifTool store it in PNG
        iptc = iptc or _in_resources(_raw_profile(info.get(f"Raw profile type {name}", "")))
    xmp = info.get("xmp") or info.get(_XMP_KEY) or b""
    # Where a JPEG says nothing, Pillow says 72.
    known = image.format != "JPEG" or info.get("jfif_unit")
    return Metadata(
        exif=_portable(exif),
        xmp=_true_xmp(xmp.encode() if isinstance(xmp, str) else xmp),
        iptc=iptc,
        dpi=(_dpi(info.get("dpi")) if known else None) or _exif_dpi(exif),
        texts=_texts(image),
    )


def read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of a picture that Pillow has opened and does not turn by itself."""
    return int(Exif.read(_raw_exif(image.info)).number(_ORIENTATION) or 1)


def read_tiff_metadata(path: Path) -> Metadata:
    """The metadata of a TIFF; what is damaged of it is left out."""
    with path.open("rb") as file:
        exif = Exif.read(file)
    found = [exif.tags.get(tag) for tag in (_XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG)]
    xmp, iptc, resources = (tag.data if isinstance(tag, Tag) else b"" for tag in found)
    dpi = _exif_dpi(exif)
    exif.tags = {number: tag for number, tag in exif.tags.items() if number not in _STRUCTURE}
    return Metadata(_portable(exif), _true_xmp(xmp), iptc or _in_resources(resources), dpi)


def stored_settings(path: Path, image: Image.Image) -> dict[str, Any] | None:
    """The settings that onnxdream stored in a picture.

    Args:
        path: The file.
        image: The same, opened by Pillow.

    Returns:
        The settings; None if there are none.
    """
    info = image.info
    exif = Exif.read(_raw_exif(info))
    if image.format == "TIFF":
        with path.open("rb") as file:
            exif = Exif.read(file)
    comment = info.get("comment", b"")
    for text in (
        f"{SETTINGS_KEY} {info.get(SETTINGS_KEY, '')}",
        exif.text(_SOFTWARE),
        exif.text(_DESCRIPTION),  # where older versions stored them
        comment.decode("latin1") if isinstance(comment, bytes) else "",
    ):
        if text.startswith(SETTINGS_KEY):
            try:
                settings = json.loads(text.removeprefix(SETTINGS_KEY))
            except (ValueError, RecursionError):
                continue
            if isinstance(settings, dict):
                return settings
    return None


def settings_note(settings: dict[str, Any] | None) -> str:
    """Settings as a text that says whose they are; empty if there are none."""
    return f"{SETTINGS_KEY} {json.dumps(settings)}" if settings else ""


def build_exif(metadata: Metadata, size: tuple[int, ...], settings: dict[str, Any] | None = None) -> Exif:
    """EXIF to write.

    Args:
        metadata: What to keep.
        size: (height, width) of the picture.
        settings: Stored in it.
    """
    exif = Exif.read(metadata.exif)
    if metadata.dpi and _X_RESOLUTION in exif.tags:
        _set_dpi(exif, metadata.dpi)
    for keyword, tag in TEXT_TAGS.items():
        if tag not in exif.tags and (text := dict(metadata.texts).get(keyword)):
            exif.set_text(tag, text)
    if settings:
        exif.set_text(_SOFTWARE, settings_note(settings))
    details = exif.tags.get(DETAILS, {})
    for tag, side in ((_WIDTH, size[1]), (_HEIGHT, size[0])):
        if tag in details:
            exif.set_number(tag, side, within=DETAILS)
    return exif


def _set_dpi(exif: Exif, dpi: tuple[float, float]) -> None:
    exif.set_number(_X_RESOLUTION, float(dpi[0]))
    exif.set_number(_Y_RESOLUTION, float(dpi[1]))
    exif.tags[_RESOLUTION_UNIT] = Tag(3, struct.pack(f"{exif.order}H", 2))


def jpeg_options(metadata: Metadata, size: tuple[int, ...], settings: dict[str, Any] | None) -> dict[str, Any]:
    """What Pillow's JPEG writer needs to store metadata and settings.

    Args:
        metadata: What to keep; what is too long for a JPEG is left out, see `too_long_for_jpeg`.
        size: (height, width) of the picture.
        settings: Stored in it.
    """
    long = too_long_for_jpeg(metadata, size, settings)
    kept = Metadata() if "EXIF" in long else metadata
    segments = b""
    if metadata.xmp and "XMP" not in long:
        segments += _segment(0xE1, _JPEG_XMP + metadata.xmp)
    if metadata.iptc and "IPTC" not in long:
        segments += _segment(0xED, _JPEG_IPTC + _as_resource(metadata.iptc))
    options: dict[str, Any] = {"exif": build_exif(kept, size, settings).to_bytes(), "extra": segments}
    if metadata.dpi:
        options["dpi"] = metadata.dpi
    if comment := dict(metadata.texts).get("Comment"):
        options["comment"] = comment.encode()[:LONGEST_SEGMENT]
    return options


def too_long_for_jpeg(metadata: Metadata, size: tuple[int, ...], settings: dict[str, Any] | None) -> list[str]:
    """Which of EXIF, XMP and IPTC a JPEG cannot hold, since they are longer than a segment of it.

    Args:
        metadata: What would be written.
        size: (height, width) of the picture.
        settings: What would be stored with it.
    """
    lengths = {
        "EXIF": len(build_exif(metadata, size, settings).to_bytes()) if metadata.exif else 0,
        "XMP": len(_JPEG_XMP + metadata.xmp),
        "IPTC": len(_JPEG_IPTC + _as_resource(metadata.iptc)),
    }
    return [name for name, length in lengths.items() if length > LONGEST_SEGMENT]


def png_options(metadata: Metadata, size: tuple[int, ...], settings: dict[str, Any] | None) -> dict[str, Any]:
    """What Pillow's PNG writer needs to store metadata and settings.

    Args:
        metadata: What to keep.
        size: (height, width) of the picture.
        settings: Stored in it.
    """
    texts = PngInfo()
    if settings:
        texts.add_itxt(SETTINGS_KEY, json.dumps(settings))
    if metadata.xmp:
        texts.add_itxt(_XMP_KEY, metadata.xmp.decode("utf-8", "replace"))
    if metadata.iptc:
        resource = _as_resource(metadata.iptc)
        lines = re.findall(".{1,72}", resource.hex())
        texts.add_text("Raw profile type iptc", "\n".join(["", "iptc", f"{len(resource):8}", *lines, ""]), zip=True)
    for keyword, text in metadata.texts:
        texts.add_itxt(keyword, text)
    options: dict[str, Any] = {"pnginfo": texts}
    if metadata.exif:
        options["exif"] = build_exif(metadata, size).to_bytes()
    if metadata.dpi:
        options["dpi"] = metadata.dpi
    return options


def webp_options(metadata: Metadata, size: tuple[int, ...], settings: dict[str, Any] | None) -> dict[str, Any]:
    """What Pillow's WebP writer needs to store metadata and settings.

    Args:
        metadata: What to keep; WebP has no place for IPTC and texts.
        size: (height, width) of the picture.
        settings: Stored in it.
    """
    exif = build_exif(metadata, size, settings)
    if metadata.dpi:
        _set_dpi(exif, metadata.dpi)  # for want of another place
    options: dict[str, Any] = {"exif": exif.to_bytes()} if exif.tags else {}
    if metadata.xmp:
        options["xmp"] = metadata.xmp
    return options


def add_tiff_tags(path: Path, metadata: Metadata, size: tuple[int, ...], settings: dict[str, Any] | None) -> None:
    """Add metadata and settings to a TIFF that is written already: its directory is written anew, behind its pixels.

    Args:
        path: A classic TIFF with one picture, in the order of bytes of `build_exif`.
        metadata: What to keep; texts have no place in it.
        size: (height, width) of the picture.
        settings: Stored in it.
    """
    added = build_exif(metadata, size, settings)
    if metadata.xmp:
        added.tags[_XMP_TAG] = Tag(1, metadata.xmp)
    if metadata.iptc:
        added.tags[_IPTC_TAG] = Tag(7, metadata.iptc)
    with path.open("r+b") as file:
        own = Exif.read(file)
        own.tags = added.tags | own.tags
        end = file.seek(0, 2)
        place = end + end % 2
        file.seek(place)
        file.write(own.directory(place))
        file.seek(4)
        file.write(struct.pack(f"{own.order}I", place))


def _raw_exif(info: dict[Any, Any]) -> bytes:
    data = info.get("exif") or _raw_profile(info.get("Raw profile type exif", ""))
    return data if isinstance(data, bytes) else b""


def _portable(exif: Exif) -> bytes:
    """EXIF that holds for any picture made from this one: upright, and without our own notes."""
    if _ORIENTATION in exif.tags:
        exif.tags[_ORIENTATION] = Tag(3, struct.pack(f"{exif.order}H", 1))
    for tag in (_SOFTWARE, _DESCRIPTION):
        if exif.text(tag).startswith(SETTINGS_KEY):
            del exif.tags[tag]
    return exif.to_bytes()


def _true_xmp(xmp: bytes) -> bytes:
    """XMP that is true of the dream: upright, and a picture without a film or a second picture behind it."""
    upright = re.sub(rb'(tiff:Orientation(?:="|=\'|>))[2-8]', rb"\g<1>1", xmp.rstrip(b"\0"))
    return _MORE_IN_FILE.sub(b"", upright)


def _dpi(stated: Any) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in stated)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 <= x <= 1e6 and 1 <= y <= 1e6 else None


def _exif_dpi(exif: Exif) -> tuple[float, float] | None:
    scale = {2: 1.0, 3: 2.54}.get(int(exif.number(_RESOLUTION_UNIT) or 2))  # an inch, or a centimetre
    stated = _dpi((exif.number(_X_RESOLUTION), exif.number(_Y_RESOLUTION)))
    return (stated[0] * scale, stated[1] * scale) if stated and scale else None


def _texts(image: Image.Image) -> tuple[tuple[str, str], ...]:
    texts = {
        key: str(text)
        for key, text in (getattr(image, "text", {}) or {}).items()
        if key not in (SETTINGS_KEY, _XMP_KEY) and not key.startswith("Raw profile type")
    }
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and not comment.startswith(SETTINGS_KEY.encode()):
        texts["Comment"] = comment.decode("utf-8", "replace").strip("\0")
    return tuple((key, text) for key, text in texts.items() if text)


def _raw_profile(text: Any) -> bytes:
    """The bytes of a profile in a PNG's text: its name, its length, and hexadecimal numbers."""
    parts = str(text).split()
    try:
        return bytes.fromhex("".join(parts[2:]))
    except ValueError:
        return b""


def _in_resources(data: bytes) -> bytes:
    """IPTC records among Photoshop's resources, or on their own."""
    at = data.find(b"8BIM" + struct.pack(">H", _IPTC_RESOURCE))
    if at < 0:
        return data if data.startswith(b"\x1c") else b""
    name = at + 6
    sizes = name + (data[name : name + 1] or b"\0")[0] + 1
    sizes += (sizes - name) % 2
    length = int.from_bytes(data[sizes : sizes + 4], "big")
    return data[sizes + 4 : sizes + 4 + length]


def _as_resource(iptc: bytes) -> bytes:
    """IPTC records as one of Photoshop's resources."""
    return b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
