"""Still pictures: reading, writing, resizing, colour, and the settings a picture carries."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from .errors import OutputError, PictureError, WriteError, first_line

# Above this a file is more likely a decompression bomb than a picture.
MAX_PIXELS = 400_000_000
SETTINGS_KEY = "onnxdream"
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_LONGEST = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".gif": 65535}  # the formats' own limits, in pixels
# Tags of TIFF and EXIF.
_BITS, _PHOTOMETRIC, _DESCRIPTION, _ORIENTATION, _PLANES, _EXTRA, _PROFILE = 258, 262, 270, 274, 284, 338, 34675


@dataclass(frozen=True)
class Picture:
    """A still picture, upright.

    `rgb` is float32 [H,W,3] in 0..255 whatever the file's depth; `alpha` is float32 [H,W] in 0..1 or None; `bits` is 8
    or 16; `icc` is the file's RGB colour profile.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    bits: int = 8
    icc: bytes | None = None


def read_picture(path: Path) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF or any other still picture Pillow knows.

    EXIF rotation is applied, grey, palette and CMYK become RGB, alpha is kept apart. Raises PictureError when the file
    is missing, empty, damaged, no picture, or has more than 400 million pixels.
    """
    with _opened(path) as image:
        _check_whole(image, path)
        icc = image.info.get("icc_profile")
        if _is_deep(image, path):
            turned = image.getexif().get(_ORIENTATION, 1)
            return _split(_upright(_read_deep(image, path), turned), 65535, icc)
        if image.mode.startswith(("I", "F")):
            raise PictureError(f"{path}: this kind of pixel ({image.mode}) cannot be read; save it as a PNG")
        upright = ImageOps.exif_transpose(image)
        if image.mode == "CMYK" and icc:
            upright = _to_srgb(upright, icc)
        has_alpha = "A" in upright.getbands() or "transparency" in upright.info
        return _split(np.asarray(upright.convert("RGBA" if has_alpha else "RGB")), 255, icc)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture file, opened and its size checked; whatever goes wrong inside becomes a PictureError."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        if path.is_dir():
            raise PictureError(f"{path}: is a folder, not a picture")
        if not path.is_file():
            raise PictureError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size == 0:
            raise PictureError(f"{path}: the file is empty")
        Image.MAX_IMAGE_PIXELS = None  # the check below allows more than Pillow, and says more
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PictureError(f"{path}: {width}x{height} is more than {MAX_PIXELS:,} pixels; make it smaller")
            yield image
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


def _check_whole(image: Image.Image, path: Path) -> None:
    """Raise PictureError when strips or tiles of a TIFF lie behind the file's end, of which libtiff would complain."""
    tags = getattr(image, "tag_v2", {})
    for starts, lengths in ((273, 279), (324, 325)):
        parts = zip(tags.get(starts, ()), tags.get(lengths, ()), strict=False)
        if any(start + length > path.stat().st_size for start, length in parts):
            raise PictureError(f"{path}: the picture is damaged or cut off (a part of it lies behind the file's end)")


def _is_deep(image: Image.Image, path: Path) -> bool:
    """Whether the file has 16 bits a channel, which Pillow would cut to 8 in colour pictures."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24] == 16
    bits = getattr(image, "tag_v2", {}).get(_BITS, (8,))
    return image.format == "TIFF" and max(bits) == 16


def _read_deep(image: Image.Image, path: Path) -> np.ndarray:
    """A 16-bit PNG or TIFF as uint16 [H,W,1|3|4], in the orientation it is stored in."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANES, 1) != 1 and len(image.getbands()) > 1:
        raise PictureError(f"{path}: keeps its 16-bit colours in separate planes; save it with interleaved ones")
    data = path.read_bytes()
    if tags.get(_ORIENTATION, 1) != 1:
        data = _with_tags(data, {_ORIENTATION: (3, struct.pack(_order(data) + "H", 1))})
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(0)  # what it has to say comes back as None
    try:
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if raw is None or raw.dtype != np.uint16:
        image.load()  # says what is wrong, where it is more than the kind
        raise PictureError(f"{path}: this kind of 16-bit picture cannot be read; save it as a plain 16-bit PNG")
    if raw.ndim == 2:
        return 65535 - raw[:, :, None] if tags.get(_PHOTOMETRIC, 1) == 0 else raw[:, :, None]
    return cv2.cvtColor(raw, cv2.COLOR_BGR2RGB if raw.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1..8) on [H,W,C]."""
    if orientation in (2, 4, 5, 7):
        array = array[:, ::-1]
    return np.rot90(array, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0))


def _to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """A CMYK picture in sRGB by its profile, or as it is where the profile is unusable."""
    try:
        profiles = ImageCms.ImageCmsProfile(BytesIO(icc)), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):
        return image


def _split(array: np.ndarray, top: int, icc: bytes | None) -> Picture:
    values = array.astype(np.float32) * (255 / top)
    rgb = values[:, :, :3] if values.shape[2] >= 3 else np.repeat(values[:, :, :1], 3, 2)
    alpha = np.ascontiguousarray(values[:, :, 3] / 255) if values.shape[2] == 4 else None
    profile = icc if icc and icc[16:20] == b"RGB " else None  # a grey or CMYK one no longer fits
    return Picture(np.ascontiguousarray(rgb), alpha, 16 if top > 255 else 8, profile)


def check_writable(path: Path) -> None:
    """Raise OutputError, before any work is done, when a picture cannot be written to `path`."""
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
    """Raise OutputError when the format of `path` cannot hold a picture of `size` (height, width)."""
    suffix = path.suffix.lower()
    if max(size) > _LONGEST.get(suffix, max(size)):
        raise OutputError(f"{path}: {size[1]}x{size[0]} is more than {suffix} can hold; use .png")


def write_picture(path: Path, picture: Picture, settings: dict[str, Any] | None = None) -> None:
    """Write `picture` in the format of the path's ending, with `settings` inside; the file appears when it is whole.

    PNG and TIFF keep 16 bits; JPEG has no alpha, which is laid over white. Raises OutputError, or
    WriteError when writing fails.
    """
    check_writable(path)
    check_size(path, picture.rgb.shape[:2])
    suffix = path.suffix.lower()
    deep = picture.bits == 16 and suffix in (".png", ".tif", ".tiff")
    rgb, alpha = picture.rgb, picture.alpha
    if alpha is not None and suffix in (".jpg", ".jpeg"):
        rgb, alpha = 255 + (rgb - 255) * alpha[:, :, None], None
    values = rgb if alpha is None else np.dstack([rgb, alpha * 255])

    def write(to: Path) -> None:
        if deep:
            to.write_bytes(_encode_deep(suffix, values, json.dumps(settings) if settings else "", picture.icc))
        else:
            pixels = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
            Image.fromarray(pixels).save(to, **metadata(suffix, settings, picture.icc))

    write_whole(path, write)


def metadata(suffix: str, settings: dict[str, Any] | None, icc: bytes | None) -> dict[str, Any]:
    """Pillow's save options for a format: quality, profile, and the settings as text, comment or EXIF description."""
    text = json.dumps(settings) if settings else ""
    options: dict[str, Any] = {"icc_profile": icc} if icc else {}
    if suffix in (".jpg", ".jpeg", ".webp"):
        options["quality"] = 95
    if suffix in (".tif", ".tiff"):
        options["compression"] = "tiff_adobe_deflate"
    if text and suffix == ".png":
        info = PngInfo()
        info.add_itxt(SETTINGS_KEY, text)
        options["pnginfo"] = info
    elif text and suffix == ".gif":
        options["comment"] = f"{SETTINGS_KEY} {text}".encode()
    elif text:
        exif = Image.Exif()
        exif[_DESCRIPTION] = f"{SETTINGS_KEY} {text}"
        options["exif"] = exif
    return options


def _encode_deep(suffix: str, values: np.ndarray, text: str, icc: bytes | None) -> bytes:
    """[H,W,3|4] in 0..255 as a 16-bit file: the pixels by OpenCV, profile and settings put in after."""
    pixels = np.rint(np.clip(values, 0, 255) * 257).astype(np.uint16)
    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    deflate = [] if suffix == ".png" else [cv2.IMWRITE_TIFF_COMPRESSION, 8]
    ok, encoded = cv2.imencode(suffix, cv2.cvtColor(pixels, order), deflate)
    if not ok:
        raise OSError("OpenCV could not encode it")
    data = encoded.tobytes()
    if suffix == ".png":
        profile = _png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)) if icc else b""
        note = _png_chunk(b"iTXt", SETTINGS_KEY.encode() + b"\0\0\0\0\0" + text.encode()) if text else b""
        return data[:33] + profile + note + data[33:]  # behind the signature and the header chunk
    tags = {_DESCRIPTION: (2, f"{SETTINGS_KEY} {text}\0".encode())} if text else {}
    if pixels.shape[2] == 4:
        tags[_EXTRA] = (3, struct.pack(_order(data) + "H", 2))  # the fourth channel is alpha, not multiplied in
    return _with_tags(data, tags | ({_PROFILE: (7, icc)} if icc else {}))


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _order(tiff: bytes) -> str:
    return "<" if tiff[:2] == b"II" else ">"


def _with_tags(tiff: bytes, tags: dict[int, tuple[int, bytes]]) -> bytes:
    """A TIFF file with `tags` {number: (type, value)} set, in a new directory at its end; BigTIFF is left as it is."""
    order = _order(tiff)
    magic, start = struct.unpack_from(order + "HI", tiff, 2)
    if magic != 42:
        return tiff
    count = struct.unpack_from(order + "H", tiff, start)[0]
    old = [tiff[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    entries = {struct.unpack_from(order + "H", entry)[0]: entry for entry in old}
    body = bytearray(tiff + b"\0" * (len(tiff) % 2))
    for number, (kind, value) in tags.items():
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", len(body))
        length = len(value) // {2: 1, 3: 2, 7: 1}[kind]
        entries[number] = struct.pack(order + "HHI", number, kind, length) + place
        body += b"" if len(value) <= 4 else value + b"\0" * (len(value) % 2)
    body[4:8] = struct.pack(order + "I", len(body))
    body += struct.pack(order + "H", len(entries)) + b"".join(entries[n] for n in sorted(entries))
    return bytes(body) + bytes(4)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings onnxdream stored in a picture it wrote. Raises PictureError when there are none."""
    with _opened(path) as image:
        text = str(image.info.get(SETTINGS_KEY, ""))
        for note in (image.getexif().get(_DESCRIPTION, ""), image.info.get("comment", b"")):
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

    `scratch` is another folder for it, on the same disk. Raises WriteError when it cannot be written, and what `write`
    raises; nothing is left behind and nothing overwritten then.
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
    """[H,W,3] RGB in 0..255, uint8 or float -> float32 [1,3,H,W]. Raises PictureError for any other shape."""
    array = np.asarray(picture)
    if array.dtype.kind not in "uif" or not np.isfinite(array).all():
        raise PictureError("a picture must be of finite numbers in 0..255")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise PictureError(f"a picture must be [H,W,3] RGB; this array is {list(array.shape)}")
    return np.ascontiguousarray(array.astype(np.float32).transpose(2, 0, 1)[None])


def from_batch(batch: np.ndarray) -> np.ndarray:
    """float32 [1,3,H,W] -> float32 [H,W,3]."""
    return np.asarray(cv2.merge(list(batch[0])))


def resize(batch: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """[N,3,h,w] to [N,3,*size]: area averages going down, cubic going up."""
    if batch.shape[2:] == tuple(size):
        return batch
    method = cv2.INTER_AREA if size[0] < batch.shape[2] or size[1] < batch.shape[3] else cv2.INTER_CUBIC
    resized = np.empty((*batch.shape[:2], *size), np.float32)
    for index in np.ndindex(batch.shape[:2]):
        resized[index] = cv2.resize(batch[index], (size[1], size[0]), interpolation=method)
    return resized


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or first_line(error)
