"""Still pictures: reading, writing, resizing, colour, and the settings a picture carries.

Files go through imageio, with Pillow beneath, and tifffile for TIFFs that are written or have 16 bits. Neither knows
16-bit colour in PNG; OpenCV does.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from .errors import OutputError, PictureError, WriteError, first_line

# Above this a file is more likely a decompression bomb than a picture.
MAX_PIXELS = 400_000_000
SETTINGS_KEY = "onnxdream"
_TIFF = (".tif", ".tiff")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", *_TIFF)
_LONGEST = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".gif": 65535}  # the formats' own limits, in pixels
_TIFF_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # in either byte order; + is BigTIFF
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # a TIFF's photometric interpretation


@dataclass(frozen=True)
class Picture:
    """A still picture, upright.

    Attributes:
        rgb: float32 [H,W,3] in 0..255, whatever the file's depth.
        alpha: float32 [H,W] in 0..1, or None.
        bits: 8 or 16 per channel.
        icc: The file's RGB colour profile, or None.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    bits: int = 8
    icc: bytes | None = None


def read_picture(path: Path) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF or any other still picture that Pillow knows.

    EXIF rotation is applied, grey, palette and CMYK become RGB, alpha is kept apart.

    Args:
        path: The file; of an animation the first frame is read.

    Raises:
        PictureError: The file is missing, empty, damaged, no picture, or has more than 400 million pixels.
    """
    with _opened(path) as file:
        facts = file.metadata(index=0, exclude_applied=False)
        mode, icc = facts["mode"], facts.get("icc_profile")
        deep = _read_deep(path, facts)
        if deep is not None:
            return _split(_upright(deep, facts.get("Orientation", 1)), 65535, icc)
        if mode.startswith(("I", "F")):
            raise PictureError(f"{path}: this kind of pixel ({mode}) cannot be read; save it as a PNG")
        if mode == "CMYK" and icc:
            pixels = _to_srgb(file.read(index=0), icc)
        else:
            has_alpha = mode in ("LA", "PA", "RGBA") or "transparency" in facts
            pixels = file.read(index=0, mode="RGBA" if has_alpha else "RGB")
        # Asked for only now: a TIFF is turned by Pillow while it is read, and then no longer has the tag.
        orientation = file.metadata(index=0, exclude_applied=False).get("Orientation", 1)
        return _split(_upright(pixels, orientation), 255, icc)


@contextlib.contextmanager
def open_frames(path: Path) -> Iterator[Any]:
    """A picture file, opened by imageio's Pillow plugin; errors are Pillow's.

    Args:
        path: The file.

    Yields:
        An `imageio.plugins.pillow.PillowPlugin`.

    Raises:
        UnidentifiedImageError: The file is no picture.
        OSError: It cannot be opened.
    """
    import imageio.v3 as iio
    from imageio.core.request import InitializationError

    with path.open("rb") as stream:
        try:
            file = iio.imopen(stream, "r", plugin="pillow")
        except OSError as error:  # imageio's own, around what went wrong
            cause = error.__cause__ or error
            raise UnidentifiedImageError("unknown kind") if isinstance(cause, InitializationError) else cause from None
        with file:
            yield file


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The picture file, opened and checked; whatever goes wrong inside becomes a PictureError."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        if path.is_dir():
            raise PictureError(f"{path}: is a folder, not a picture")
        if not path.is_file():
            raise PictureError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size == 0:
            raise PictureError(f"{path}: the file is empty")
        Image.MAX_IMAGE_PIXELS = None  # the check below allows more than Pillow, and says more
        with open_frames(path) as file:
            height, width = file.properties(index=0).shape[:2]
            if width * height > MAX_PIXELS:
                raise PictureError(f"{path}: {width}x{height} is more than {MAX_PIXELS:,} pixels; make it smaller")
            yield file
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"{path}: not a picture, or of a kind that cannot be read") from error
    except PermissionError as error:
        raise PictureError(f"{path}: cannot be read ({_reason(error)})") from error
    except Exception as error:
        raise PictureError(f"{path}: the picture is damaged or cut off ({_reason(error)})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_deep(path: Path, facts: dict[str, Any]) -> np.ndarray | None:
    """A PNG or TIFF of 16 bits a channel, of which Pillow would cut colours to 8, as it is stored; None for others.

    Args:
        path: The file.
        facts: What imageio's Pillow plugin tells of it.

    Returns:
        uint16 [H,W,1|3|4], grey, RGB or RGBA.

    Raises:
        PictureError: The kind cannot be read, or a part of a TIFF, of whatever depth, is missing.
    """
    with path.open("rb") as file:
        header = file.read(25)
    if header.startswith(b"\x89PNG") and header[24] == 16:
        pixels = _read_deep_png(path)
    elif header[:4] in _TIFF_HEADERS:
        _check_whole(path, facts)
        if np.max(facts.get("BitsPerSample", 8)) != 16:
            return None
        pixels = _read_deep_tiff(path, facts)
    else:
        return None
    pixels = np.atleast_3d(pixels)
    if pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise PictureError(f"{path}: this kind of 16-bit picture cannot be read; save it as a plain 16-bit PNG")
    return pixels


def _read_deep_png(path: Path) -> np.ndarray:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)  # what it has to say comes back as None
    try:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        raise OSError("its pixels cannot be decoded")
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _read_deep_tiff(path: Path, facts: dict[str, Any]) -> np.ndarray:
    import imageio.v3 as iio

    index: Any = ...  # pages are counted over the whole file
    pixels = iio.imread(path, plugin="tifffile", index=index, page=0)
    if facts.get("PlanarConfiguration") == 2 and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, 2)
    kind = facts.get("PhotometricInterpretation")
    if kind not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        raise PictureError(f"{path}: this kind of 16-bit picture cannot be read; save it as a plain 16-bit PNG")
    return np.invert(pixels) if kind == _WHITE_IS_ZERO else pixels


def _check_whole(path: Path, facts: dict[str, Any]) -> None:
    """Raise PictureError when strips or tiles of a TIFF lie behind the file's end, of which libtiff would complain."""
    size = path.stat().st_size
    for starts, lengths in (("StripOffsets", "StripByteCounts"), ("TileOffsets", "TileByteCounts")):
        parts = zip(np.atleast_1d(facts.get(starts, ())), np.atleast_1d(facts.get(lengths, ())), strict=False)
        if any(start + length > size for start, length in parts):
            raise PictureError(f"{path}: the picture is damaged or cut off (a part of it lies behind the file's end)")


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1..8) on [H,W,C]."""
    if orientation in (2, 4, 5, 7):
        array = array[:, ::-1]
    return np.rot90(array, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0))


def _to_srgb(pixels: np.ndarray, icc: bytes) -> np.ndarray:
    """CMYK [H,W,4] as RGB [H,W,3] in sRGB by its profile, or by plain arithmetic where the profile is unusable."""
    image = Image.fromarray(pixels, "CMYK")
    try:
        profiles = ImageCms.ImageCmsProfile(BytesIO(icc)), ImageCms.createProfile("sRGB")
        return np.asarray(ImageCms.profileToProfile(image, *profiles, outputMode="RGB"))
    except (ImageCms.PyCMSError, OSError):
        return np.asarray(image.convert("RGB"))


def _split(array: np.ndarray, top: int, icc: bytes | None) -> Picture:
    values = array.astype(np.float32) * (255 / top)
    rgb = values[:, :, :3] if values.shape[2] >= 3 else np.repeat(values[:, :, :1], 3, 2)
    alpha = np.ascontiguousarray(values[:, :, 3] / 255) if values.shape[2] == 4 else None
    profile = icc if icc and icc[16:20] == b"RGB " else None  # a grey or CMYK one no longer fits
    return Picture(np.ascontiguousarray(rgb), alpha, 16 if top > 255 else 8, profile)


def check_writable(path: Path) -> None:
    """Make sure, before any work is done, that a picture can be written to `path`.

    Raises:
        OutputError: There can be no such file.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        kind = f"{path.suffix} files" if suffix else "a file without an ending"
        raise OutputError(f"{path}: cannot write {kind}; use {', '.join(WRITABLE)}")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent} to write into; create it first")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} is read-only; choose another")


def check_size(path: Path, size: tuple[int, ...]) -> None:
    """Make sure that a format can hold a picture.

    Args:
        path: Its ending names the format.
        size: (height, width) in pixels.

    Raises:
        OutputError: The format cannot hold one so large.
    """
    suffix = path.suffix.lower()
    if max(size) > _LONGEST.get(suffix, max(size)):
        raise OutputError(f"{path}: {size[1]}x{size[0]} is more than {suffix} can hold; use .png")


def write_picture(path: Path, picture: Picture, settings: dict[str, Any] | None = None) -> None:
    """Write a picture, with settings inside; the file appears when it is whole.

    PNG and TIFF keep 16 bits; JPEG has no alpha, which is laid over white.

    Args:
        path: The file; its ending names the format.
        picture: What to write.
        settings: Found again by `read_settings`.

    Raises:
        OutputError: The format cannot hold this picture, or there can be no such file.
        WriteError: Writing failed.
    """
    check_writable(path)
    check_size(path, picture.rgb.shape[:2])
    suffix = path.suffix.lower()
    deep = picture.bits == 16 and suffix in (".png", *_TIFF)
    rgb, alpha = picture.rgb, picture.alpha
    if alpha is not None and suffix in (".jpg", ".jpeg"):
        rgb, alpha = 255 + (rgb - 255) * alpha[:, :, None], None
    values = rgb if alpha is None else np.dstack([rgb, alpha * 255])
    pixels = np.rint(np.clip(values, 0, 255) * (257 if deep else 1)).astype(np.uint16 if deep else np.uint8)

    def write(to: Path) -> None:
        if suffix in _TIFF:
            _write_tiff(to, pixels, settings, picture.icc)
        elif deep:
            _write_deep_png(to, pixels, settings, picture.icc)
        else:
            write_frames(to, [pixels], settings, icc_profile=picture.icc)

    write_whole(path, write)


def write_frames(
    to: Path, frames: Iterable[np.ndarray], settings: dict[str, Any] | None = None, **options: Any
) -> None:
    """Write a still picture of 8 bits, or several frames as an animation.

    Args:
        to: A PNG, JPEG, WebP or GIF file.
        frames: uint8 [H,W,3|4], all of one size.
        settings: Found again by `read_settings`.
        **options: For Pillow's writer; animations need `save_all`.

    Raises:
        OSError, ValueError: What Pillow raises when it cannot write them.
    """
    import imageio.v3 as iio

    suffix = to.suffix.lower()
    text = json.dumps(settings) if settings else ""
    if suffix in (".jpg", ".jpeg", ".webp"):
        options.setdefault("quality", 95)
    if text and suffix == ".png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt(SETTINGS_KEY, text)
    elif text and suffix == ".gif":
        options["comment"] = f"{SETTINGS_KEY} {text}".encode()
    elif text:
        options["exif"] = Image.Exif()
        options["exif"][ExifTags.Base.ImageDescription] = f"{SETTINGS_KEY} {text}"
    with to.open("wb") as stream, iio.imopen(stream, "w", plugin="pillow", extension=suffix) as file:
        for frame in frames:
            file.write(frame, **options)


def _write_tiff(to: Path, pixels: np.ndarray, settings: dict[str, Any] | None, icc: bytes | None) -> None:
    import imageio.v3 as iio

    options: dict[str, Any] = {"compression": "adobe_deflate", "predictor": True, "metadata": None, "software": False}
    if pixels.shape[2] == 4:
        options["extrasamples"] = ["unassalpha"]
    if settings:
        options["description"] = f"{SETTINGS_KEY} {json.dumps(settings)}"
    with to.open("wb") as stream:
        iio.imwrite(stream, pixels, plugin="tifffile", extension=".tif", iccprofile=icc, **options)


def _write_deep_png(to: Path, pixels: np.ndarray, settings: dict[str, Any] | None, icc: bytes | None) -> None:
    """Write uint16 [H,W,3|4]: the pixels by OpenCV, profile and settings put in after."""
    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, order))
    if not ok:
        raise OSError("OpenCV could not encode it")
    data = encoded.tobytes()
    chunks = _png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)) if icc else b""
    if settings:
        chunks += _png_chunk(b"iTXt", SETTINGS_KEY.encode() + b"\0\0\0\0\0" + json.dumps(settings).encode())
    to.write_bytes(data[:33] + chunks + data[33:])  # behind the signature and the header chunk


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings onnxdream stored in a picture it wrote.

    Raises:
        PictureError: The picture cannot be read, or carries no settings.
    """
    with _opened(path) as file:
        facts = file.metadata(index=0)
    text = str(facts.get(SETTINGS_KEY, ""))
    for note in (facts.get("ImageDescription", ""), facts.get("comment", b"")):
        plain = note.decode("latin1") if isinstance(note, bytes) else str(note)
        if not text and plain.startswith(SETTINGS_KEY):
            text = plain.removeprefix(SETTINGS_KEY)
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise PictureError(f"{path}: carries no onnxdream settings; name a picture that onnxdream wrote")
    return settings


def write_whole(path: Path, write: Callable[[Path], None], *, scratch: Path | None = None) -> None:
    """Call `write` with a temporary name beside `path`, and rename the result into place when it is whole.

    Whatever goes wrong, nothing is left behind and nothing overwritten then.

    Args:
        path: The file.
        write: Writes it; what it raises is raised here, except for errors of writing.
        scratch: Another folder for the temporary name, on the same disk.

    Raises:
        WriteError: The file cannot be written.
    """
    # Named before it is there: an interruption can come in the very call that makes the file.
    temporary = (scratch or path.parent) / f".onnxdream-{uuid.uuid4().hex}{path.suffix}"
    try:
        temporary.touch(exist_ok=False)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # where it could not be made
            temporary.unlink()


def to_batch(picture: np.ndarray) -> np.ndarray:
    """A picture, RGB [H,W,3] of numbers in 0..255, as float32 [1,3,H,W].

    Raises:
        PictureError: The array has another shape, or is not of finite numbers.
    """
    array = np.asarray(picture)
    if array.dtype.kind not in "uif" or not np.isfinite(array).all():
        raise PictureError("a picture must be of finite numbers in 0..255")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise PictureError(f"a picture must be [H,W,3] RGB; this array is {list(array.shape)}")
    return np.ascontiguousarray(array.astype(np.float32).transpose(2, 0, 1)[None])


def from_batch(batch: np.ndarray) -> np.ndarray:
    """The picture float32 [H,W,3] of a batch float32 [1,3,H,W]."""
    return np.asarray(cv2.merge(list(batch[0])))


def resize(batch: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Pictures [N,3,h,w] at another size (height, width), as float32: area averages going down, cubic going up."""
    if batch.shape[2:] == tuple(size):
        return batch
    method = cv2.INTER_AREA if size[0] < batch.shape[2] or size[1] < batch.shape[3] else cv2.INTER_CUBIC
    resized = np.empty((*batch.shape[:2], *size), np.float32)
    for index in np.ndindex(batch.shape[:2]):
        resized[index] = cv2.resize(batch[index], (size[1], size[0]), interpolation=method)
    return resized


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or first_line(error)
