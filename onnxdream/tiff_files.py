"""TIFF, read and written by tifffile: samples of any depth, and opacity of both kinds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .errors import PictureError
from .exif import Exif
from .photo_metadata import Metadata, add_tiff_tags
from .picture_kinds import RAW_PHOTO, explain

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # of damage it would tell on the terminal

HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # in either byte order; + is BigTIFF
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CFA, _LINEAR_RAW = 0, 1, 2, 3, 32803, 34892
_MOST_CHANNELS = 16
_PREMULTIPLIED, _OPACITY = 1, 2  # kinds of extra samples
_DNG_VERSION, _HIGHEST, _SIGNED_LOWEST, _SIGNED_HIGHEST = 50706, 281, 340, 341


def read_tiff(
    path: Path, most_pixels: int, say: Callable[[str], object]
) -> tuple[np.ndarray, int, bytes | None] | None:
    """The first picture of a TIFF whose samples are brightness or RGB; None for palettes, CMYK, YCbCr and Lab.

    Args:
        path: The file.
        most_pixels: Above this it is refused.
        say: Called with a line for each thing that is left out.

    Returns:
        uint8 or uint16 [H,W,C], 1 to 4 channels, the last of 2 or 4 being opacity with which colours are not
        multiplied; the EXIF orientation, 1 to 8; and the colour profile.

    Raises:
        PictureError: The file is cut off, too large, a camera's raw photograph, or its samples cannot be read.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        if _is_raw(page):
            raise PictureError(explain(RAW_PHOTO, str(path)))
        if page.samplesperpixel > _MOST_CHANNELS:
            raise PictureError(f"{path}: a TIFF of {page.samplesperpixel} channels cannot be read; save it as RGB")
        if page.imagewidth * page.imagelength > most_pixels:
            raise PictureError(
                f"{path}: {page.imagewidth}x{page.imagelength} is more than {most_pixels:,} pixels; make it smaller"
            )
        if not (page.imagewidth and page.imagelength and page.dataoffsets and page.databytecounts):
            raise PictureError(f"{path}: the picture is damaged or cut off (it has no pixels)")
        parts = zip(page.dataoffsets, page.databytecounts, strict=False)
        if any(start + length > file.filehandle.size for start, length in parts):
            raise PictureError(f"{path}: the picture is damaged or cut off (a part of it lies behind the file's end)")
        pages = sum(1 for p in file.pages if not getattr(p, "is_reduced", False))
        if pages > 1:
            say(f"{path}: has {pages} pages, of which only the first is read")
        if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
            if page.photometric != _PALETTE and page.bitspersample > 8:
                say(f"{path}: has {page.bitspersample} bits a channel, of which 8 are read")
            return None
        orientation, icc = page.tags.valueof("Orientation", 1), page.iccprofile
        values, channels = page.asarray(), page.samplesperpixel
        if page.planarconfig == 2 and channels > 1:
            values = np.moveaxis(values, 0, -1)
        if values.size != page.imagelength * page.imagewidth * channels:
            raise PictureError(f"{path}: a TIFF of volumes cannot be read; save one slice as a TIFF or PNG")
        values = _full_range(path, page, values.reshape(page.imagelength, page.imagewidth, channels), say)
    colors = 3 if page.photometric == _RGB else 1
    if channels < colors:
        raise PictureError(f"{path}: a TIFF of {channels} channels cannot be read; save it as RGB")
    color, kinds = values[:, :, :colors], page.extrasamples
    if page.photometric == _WHITE_IS_ZERO:
        color = np.invert(color)
    kinds = kinds or (_OPACITY,) * (channels == 4)  # some writers leave out what the fourth channel is
    known = [place for place, kind in enumerate(kinds) if kind in (_PREMULTIPLIED, _OPACITY)]
    if len(kinds) > len(known[:1]):
        say(f"{path}: {len(kinds) - len(known[:1])} of its extra channels are left out")
    if not known:
        return color, orientation, icc
    opacity = values[:, :, colors + known[0], None]
    if kinds[known[0]] == _PREMULTIPLIED:
        color = _divided(color, opacity)
    return np.concatenate([color, opacity], 2), orientation, icc


def _is_raw(page: Any) -> bool:
    """Whether there are a sensor's numbers in the file, before which cameras put a small picture."""
    if _DNG_VERSION in page.tags or page.photometric in (_CFA, _LINEAR_RAW):
        return True
    return any(getattr(sub, "photometric", None) in (_CFA, _LINEAR_RAW) for sub in page.pages or ())


def _full_range(path: Path, page: Any, values: np.ndarray, say: Callable[[str], object]) -> np.ndarray:
    """Samples as uint8 or uint16 over their full range. Raises PictureError where their range is not known."""
    kind = values.dtype.kind
    stated = _stated_range(page)
    if kind == "b":
        low, high = 0.0, 1.0
    elif stated is not None:
        low, high = stated
        say(f"{path}: its samples are {low:g} to {high:g}, which become black to white")
    elif kind == "u":
        low, high = 0.0, float(2**page.bitspersample - 1)
    elif kind == "f" and np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1:
        low, high = 0.0, 1.0
    else:
        samples = {"f": "floating-point numbers", "i": "signed numbers"}.get(kind, "complex numbers")
        raise PictureError(f"{path}: its samples are {samples} that do not tell black and white; save it as 16-bit PNG")
    top = 255 if high - low <= 255 and kind in "bu" else 65535
    target = np.uint8 if top == 255 else np.uint16
    if (low, high) == (0, top):
        return values.astype(target, copy=False)
    scaled = (values.astype(np.float64) - low) * (top / (high - low))
    return np.rint(np.clip(scaled, 0, top)).astype(target)


def _stated_range(page: Any) -> tuple[float, float] | None:
    """The range of samples that a TIFF states, where it is another than its type's.

    The tags of unsigned samples are meant for statistics, and count only where they name the range of a depth.
    """
    low = float(np.min(page.tags.valueof(_SIGNED_LOWEST, 0)))
    high = float(np.max(page.tags.valueof(_SIGNED_HIGHEST, 0)))
    if high <= low:
        low, high = 0.0, float(np.max(page.tags.valueof(_HIGHEST, 0)))
        if high + 1 not in [2.0**bits for bits in range(1, 17)]:
            return None
    own = page.dtype.kind == "u" and (low, high) == (0, 2**page.bitspersample - 1)
    return None if own else (low, high)


def _divided(color: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Colours that are multiplied by opacity, as they were before."""
    top = np.iinfo(color.dtype).max
    plain = color.astype(np.float32) * top / np.maximum(opacity, 1)
    return np.asarray(np.rint(np.minimum(plain, top)), color.dtype)


def write_tiff(
    to: Path, pixels: np.ndarray, icc: bytes | None, metadata: Metadata, settings: dict[str, Any] | None
) -> None:
    """Write a picture as TIFF.

    Args:
        to: The file.
        pixels: uint8 or uint16 [H,W,3|4].
        icc: Its colour profile.
        metadata: Stored in it, but for texts.
        settings: Stored in it.
    """
    import tifffile

    options: dict[str, Any] = {"compression": "adobe_deflate", "predictor": True, "metadata": None, "software": False}
    if pixels.shape[2] == 4:
        options["extrasamples"] = ["unassalpha"]
    if metadata.dpi:
        options |= {"resolution": metadata.dpi, "resolutionunit": 2}
    with to.open("wb") as stream:
        order = Exif.read(metadata.exif).order
        tifffile.imwrite(stream, pixels, photometric="rgb", byteorder=order, iccprofile=icc, **options)
    add_tiff_tags(to, metadata, pixels.shape[:2], settings)
