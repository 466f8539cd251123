"""What a file is, told from its first bytes, where it is no picture that can be read here."""

from __future__ import annotations

import importlib.util
import re
import struct
from dataclasses import dataclass

HEAD = 4096  # how many bytes tell


@dataclass(frozen=True)
class FileKind:
    """What a file is.

    Attributes:
        name: With its article, such as "a PDF document".
        advice: What to do about it; `{}` stands for the file's name.
        module: The Python package that reads it, if there is one.
    """

    name: str
    advice: str
    module: str | None = None


_RAW = "develop it first, as with `darktable-cli {} out.tif`"
_MAGICK = "convert it first, as with `magick {} out.png`"
_VIDEO = FileKind("a video", "use `onnxdream video`")
_ARCHIVE = "unpack it first"
_HEIC = FileKind(
    "a HEIC picture", "run `pip install pillow-heif`, or convert it with `heif-convert {} out.png`", "pillow_heif"
)
_JXL = FileKind(
    "a JPEG XL picture", "run `pip install pillow-jxl-plugin`, or convert it with `djxl {} out.png`", "pillow_jxl"
)
RAW_PHOTO = FileKind("a camera's raw photograph", _RAW)
_POSTSCRIPT = FileKind("a PostScript file", "convert it first, as with `gs -sDEVICE=png16m -r200 -o out.png {}`")
_HTML = FileKind("a web page, such as a login or an error", "download the file itself")

_MAGIC = (
    (b"\xff\x0a", _JXL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", _JXL),
    (b"8BPS", FileKind("a Photoshop document", "convert it first, as with `magick '{}[0]' out.png`")),
    (b"\x76\x2f\x31\x01", FileKind("an OpenEXR picture", _MAGICK)),
    (b"#?RADIANCE", FileKind("a Radiance HDR picture", _MAGICK)),
    (b"#?RGBE", FileKind("a Radiance HDR picture", _MAGICK)),
    (b"%PDF", FileKind("a PDF document", "convert it first, as with `pdftoppm -png -r 200 {} page`")),
    (b"%!PS", _POSTSCRIPT),
    (b"\xc5\xd0\xd3\xc6", _POSTSCRIPT),
    (b"II\xbc", FileKind("a JPEG XR picture", "convert it first, as with `JxrDecApp -i {} -o out.tif`")),
    (b"gimp xcf", FileKind("a GIMP document", "export it from GIMP, or use `magick {} -flatten out.png`")),
    (b"DDS ", FileKind("a DirectDraw texture", _MAGICK)),
    (b"AT&TFORM", FileKind("a DjVu document", "convert it first, as with `ddjvu -format=tiff {} out.tif`")),
    (b"SIMPLE  =", FileKind("a FITS file", "convert it first, as with `fits2bitmap {} -o out.png`")),
    (b"\xd7\xcd\xc6\x9a", FileKind("a Windows metafile", _MAGICK)),
    (b"icns", FileKind("an Apple icon", _MAGICK)),
    (b"BPG\xfb", FileKind("a BPG picture", "convert it first, as with `bpgdec -o out.png {}`")),
    (b"FUJIFILMCCD-RAW", RAW_PHOTO),
    (b"IIU\0", RAW_PHOTO),  # Panasonic
    (b"IIRO", RAW_PHOTO),  # Olympus
    (b"IIRS", RAW_PHOTO),
    (b"MMOR", RAW_PHOTO),
    (b"FOVb", RAW_PHOTO),  # Sigma
    (b"\0MRM", RAW_PHOTO),  # Minolta
    (b"II\x1a\0\0\0HEAPCCDR", RAW_PHOTO),  # Canon
    (b"\x1aE\xdf\xa3", _VIDEO),
    (b"OggS", FileKind("an Ogg file", "use `onnxdream video` if it is a video")),
    (b"\x93NUMPY", FileKind("a NumPy array", "write it as a PNG or TIFF first")),
    (b"version https://git-lfs", FileKind("a pointer of Git LFS, not the file itself", "run `git lfs pull`")),
    (b"PK\x03\x04", FileKind("a ZIP archive", _ARCHIVE)),
    (b"\x1f\x8b", FileKind("a file compressed with gzip", "run `gunzip` on it first")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7-Zip archive", _ARCHIVE)),
    (b"Rar!", FileKind("a RAR archive", _ARCHIVE)),
)
_BRANDS = {b"avif": None, b"avis": None, b"crx ": RAW_PHOTO} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"mif2"), _HEIC
)


def identify(head: bytes) -> FileKind | None:
    """What a file is, if it is none of the pictures that Pillow and tifffile read.

    Args:
        head: Its first bytes; `HEAD` are enough.
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        return _branded(head)
    if head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"CDR9"):
        return _VIDEO if head[8:12] == b"AVI " else FileKind("a CorelDRAW document", "export it as a PNG")
    if head[8:11] == b"CR\x02":
        return RAW_PHOTO
    if head[128:132] == b"DICM":
        return FileKind("a DICOM picture", "convert it first, as with `dcm2img {} out.png`")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if re.match(rb"<(!doctype html|html|head|body)\b", text):
        return _HTML
    if re.match(rb"<(svg|\?xml|!--|!doctype svg)", text) and b"<svg" in text:
        return FileKind("an SVG drawing", "convert it first, as with `rsvg-convert {} -o out.png`")
    return None


def _branded(head: bytes) -> FileKind | None:
    """What a file of boxes (ISO BMFF) is: its major brand tells, or else one that it is compatible with."""
    length = struct.unpack(">I", head[:4])[0]
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(length, len(head)), 4))]
    for known in (b"avif", b"avis", *_BRANDS):
        if known in (brands if known in (b"avif", b"avis") else brands[:1]):
            return _BRANDS[known]
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), _VIDEO)


def explain(kind: FileKind, name: str) -> str:
    """A line about a file of that kind which cannot be read.

    Args:
        kind: From `identify`.
        name: The file's.
    """
    return f"{name}: is {kind.name}; {kind.advice.replace('{}', name)}"


def is_readable(kind: FileKind) -> bool:
    """Whether Pillow reads such a file by a package of its own, which is installed.

    Args:
        kind: From `identify`.
    """
    return kind.module is not None and importlib.util.find_spec(kind.module) is not None
