"""Still pictures: reading, writing, resizing, colour, and the settings a picture carries.

Pillow reads, imageio writes with Pillow beneath, tifffile does both for TIFF; imagecodecs reads other files of
16-bit colour, and OpenCV writes them.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import struct
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from . import tiff_files
from .errors import OutputError, PictureError, WriteError, first_line
from .photo_metadata import (
    TEXT_TAGS,
    Metadata,
    jpeg_options,
    png_options,
    read_metadata,
    read_orientation,
    read_tiff_metadata,
    settings_note,
    stored_settings,
    too_long_for_jpeg,
    webp_options,
)
from .picture_kinds import HEAD, FileKind, explain, identify, is_readable

log = logging.getLogger(__name__)

# Above this a file is more likely a decompression bomb than a picture.
MAX_PIXELS = 400_000_000
# What is let in, by Pillow's names; it knows more, of which some run other programs.
FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "AVIF", "PPM", "TGA", "ICO", "QOI", "HEIF", "JXL",
)  # fmt: skip
# Endings by which pictures are found in a folder.
ENDINGS = (
    ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".tga", ".qoi", ".jp2", ".avif", ".pbm", ".pgm",
    ".ppm", ".heic", ".heif", ".jxl",
)  # fmt: skip
_TIFF = (".tif", ".tiff")
_JPEG = (".jpg", ".jpeg")
WRITABLE = (".png", *_JPEG, ".webp", *_TIFF)
_LONGEST = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".gif": 65535}  # the formats' own limits, in pixels
_CHANNELS = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}  # of an ICC profile


_NOTHING = Metadata()


@dataclass(frozen=True)
class Picture:
    """A still picture, upright.

    Attributes:
        rgb: float32 [H,W,3] in 0..255, whatever the file's depth.
        alpha: float32 [H,W] in 0..1, or None.
        bits: 8 or 16 per channel.
        icc: The RGB colour profile, or None: sRGB.
        metadata: What else the file said.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    bits: int = 8
    icc: bytes | None = None
    metadata: Metadata = _NOTHING


def read_picture(path: Path, *, say: Callable[[str], object] = log.warning) -> Picture:
    """Read a still picture of one of `FORMATS`.

    EXIF rotation is applied, palettes become RGB, colours of a grey or CMYK profile sRGB, and alpha is kept apart.

    Args:
        path: The file; of an animation the first frame is read.
        say: Called with a line for each thing in the file that is left out; logs it by default.

    Raises:
        PictureError: The file is missing, empty, damaged, no picture, or has more than 400 million pixels.
    """
    with _reported(path):
        head = _readable_head(path)
        if head[:4] in tiff_files.HEADERS and (found := tiff_files.read_tiff(path, MAX_PIXELS, say)):
            pixels, orientation, icc = found
            return replace(_split(_upright(pixels, orientation), icc), metadata=read_tiff_metadata(path))
        with open_frames(path) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "TIFF":
                all_of_them = "; `onnxdream video` dreams all of them" if image.format in ("GIF", "WEBP") else ""
                say(f"{path}: has {frames} frames or pictures, of which only the first is read{all_of_them}")
            image.seek(0)
            # A TIFF is turned by Pillow while it is read; the others are by their EXIF.
            orientation = 1 if image.format == "TIFF" else read_orientation(image)
            metadata = read_tiff_metadata(path) if image.format == "TIFF" else read_metadata(image)
            icc = image.info.get("icc_profile")
            picture = _split(_upright(_pixels(path, image, head, say), orientation), icc)
        return replace(picture, metadata=metadata)


@contextlib.contextmanager
def open_frames(path: Path) -> Iterator[Image.Image]:
    """A picture file, opened by Pillow; errors are Pillow's, but for those of this package.

    Args:
        path: The file.

    Yields:
        The picture, at its first frame.

    Raises:
        PictureError: The file is of a kind that cannot be read, or of more than 400 million pixels.
        UnidentifiedImageError: The file is no picture.
        OSError: It cannot be opened.
    """
    _register_plugins(identify(_readable_head(path)))
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # the check below allows more than Pillow, and says more
    try:
        with path.open("rb") as stream, Image.open(stream, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PictureError(f"{path}: {width}x{height} is more than {MAX_PIXELS:,} pixels; make it smaller")
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _readable_head(path: Path) -> bytes:
    """A file's first bytes. Raises PictureError where they tell that it is none of the pictures that can be read."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    kind = identify(head)
    if kind is not None and not is_readable(kind):
        raise PictureError(explain(kind, str(path)))
    return head


def _register_plugins(kind: FileKind | None) -> None:
    """Make Pillow know its formats, and one that a package of its own reads."""
    Image.init()
    if kind is not None and kind.module == "pillow_heif":
        import pillow_heif

        pillow_heif.register_heif_opener()
    elif kind is not None and kind.module is not None:
        importlib.import_module(kind.module)


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Check that there is such a file; whatever goes wrong with it becomes a PictureError."""
    try:
        if path.is_dir():
            raise PictureError(f"{path}: is a folder, not a picture")
        if not path.is_file():
            raise PictureError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size == 0:
            raise PictureError(f"{path}: the file is empty")
        yield
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"{path}: not a picture, or of a kind that cannot be read") from error
    except PermissionError as error:
        raise PictureError(f"{path}: cannot be read ({_reason(error)})") from error
    except Exception as error:
        raise PictureError(f"{path}: the picture is damaged or cut off ({_reason(error)})") from error


def _pixels(path: Path, image: Image.Image, head: bytes, say: Callable[[str], object]) -> np.ndarray:
    """A picture's pixels as uint8 or uint16 [H,W,C], 1 to 4 channels, the last of 2 or 4 being opacity, or CMYK."""
    mode, top = image.mode, _highest_code(image, head)
    if top > 255 and image.format in ("PNG", "PPM", "JPEG2000"):
        return _read_deep(path, image.format, top)
    if top > 255:
        say(f"{path}: has {top.bit_length()} bits a channel, of which 8 are read")
    if mode.startswith(("I", "F")) or mode in ("LAB", "YCbCr", "HSV"):
        raise PictureError(f"{path}: this kind of pixel ({mode}) cannot be read; save it as a PNG")
    if mode == "CMYK":
        say(f"{path}: its CMYK colours become RGB")
        converted = _by_profile(np.asarray(image), image.info.get("icc_profile"))
        return np.asarray(image.convert("RGB")) if converted is None else converted
    if mode in ("L", "1") and "transparency" not in image.info:
        return np.asarray(image.convert("L"))[:, :, None]
    has_alpha = mode in ("La", "LA", "PA", "RGBa", "RGBA") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))


def _highest_code(image: Image.Image, head: bytes) -> int:
    """White as a number in the file, of formats that can have more than 8 bits a channel; 255 for others."""
    bits = 8
    if image.format == "PNG":
        bits = head[24]
    elif image.format == "PPM":
        words = re.sub(rb"#[^\n]*", b"", head).split(maxsplit=4)
        return int(words[3]) if words[0] in (b"P2", b"P3", b"P5", b"P6") else 255
    elif image.format == "JPEG2000":  # the first component's, in the marker of sizes
        at = head.find(b"\xff\x4f\xff\x51")
        bits = (head[at + 42] & 127) + 1 if 0 <= at < len(head) - 42 else 8
    elif image.format in ("AVIF", "HEIF"):  # as the property of pixel information says
        at = head.find(b"pixi")
        bits = head[at + 9] if 0 <= at < len(head) - 9 else 8
    return max(255, (1 << bits) - 1)


def _read_deep(path: Path, kind: str, top: int) -> np.ndarray:
    """A picture of more than 8 bits a channel, of which Pillow would cut colours to 8, as uint16 [H,W,1..4].

    Args:
        path: The file.
        kind: Pillow's name of its format.
        top: White as a number in it, which becomes 65535.
    """
    import imagecodecs

    if kind == "PPM":
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.ndim == 3:
            pixels = pixels[:, :, ::-1]
    else:
        decode = imagecodecs.png_decode if kind == "PNG" else imagecodecs.jpeg2k_decode
        pixels = decode(path.read_bytes())
    if pixels is None or pixels.dtype != np.uint16:
        raise OSError("its pixels cannot be decoded")
    if top < 65535:
        pixels = np.rint(np.minimum(pixels, top) * (65535 / top)).astype(np.uint16)
    return np.atleast_3d(pixels)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1..8) on [H,W,C]."""
    if orientation in (2, 4, 5, 7):
        array = array[:, ::-1]
    return np.rot90(array, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0))


def to_srgb(picture: Picture) -> Picture:
    """The picture in sRGB, without a profile, as moving pictures have it; as it is where its profile is unusable."""
    if picture.icc is None:
        return picture
    codes = np.rint(np.clip(picture.rgb, 0, 255) * 257).astype(np.uint16)
    converted = _by_profile(codes, picture.icc)
    rgb = picture.rgb if converted is None else converted * np.float32(1 / 257)
    return replace(picture, rgb=rgb, icc=None)


def _by_profile(pixels: np.ndarray, icc: bytes | None) -> np.ndarray | None:
    """Pixels [H,W,1|3|4] in the colours of a grey, RGB or CMYK profile as RGB [H,W,3] in sRGB, of the same type.

    Returns:
        None where the profile is none of such pixels, or unusable.
    """
    if not icc or _CHANNELS.get(icc[16:20]) != pixels.shape[2]:
        return None
    import imagecodecs

    kinds = {1: "gray", 3: "rgb", 4: "cmyk"}
    plain = np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    try:
        srgb = imagecodecs.cms_profile("srgb")
        return np.asarray(imagecodecs.cms_transform(
            plain, icc, srgb, colorspace=kinds[pixels.shape[2]], outcolorspace="rgb", outdtype=pixels.dtype
        ))  # fmt: skip
    except (imagecodecs.CmsError, ValueError):
        return None


def _split(array: np.ndarray, icc: bytes | None) -> Picture:
    """A picture of uint8 or uint16 [H,W,1..4], the last channel of 2 or 4 being opacity."""
    colors = array.shape[2] - (array.shape[2] in (2, 4))
    color, opacity = array[:, :, :colors], array[:, :, colors:]
    if icc and icc[16:20] != b"RGB ":
        converted = _by_profile(color, icc)
        color, icc = color if converted is None else converted, None
    top = np.iinfo(array.dtype).max
    rgb = np.broadcast_to(color.astype(np.float32) * np.float32(255 / top), (*array.shape[:2], 3))
    alpha = np.ascontiguousarray(opacity[:, :, 0].astype(np.float32) / top) if opacity.size else None
    return Picture(np.ascontiguousarray(rgb), alpha, 16 if top > 255 else 8, icc or None)


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

    PNG and TIFF keep 16 bits; JPEG has no alpha, which is laid over white. See `unkept`.

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
    if suffix in _JPEG and picture.alpha is not None:
        white = 255 + (picture.rgb - 255) * picture.alpha[:, :, None]
        pixels = eight_bit(replace(picture, rgb=white, alpha=None))
    else:
        pixels = _codes(picture, 65535) if deep else eight_bit(picture)

    def write(to: Path) -> None:
        if suffix in _TIFF:
            tiff_files.write_tiff(to, pixels, picture.icc, picture.metadata, settings)
        elif deep:
            _write_deep_png(to, pixels, picture.icc, png_options(picture.metadata, pixels.shape[:2], settings))
        else:
            write_frames(to, [pixels], settings, picture.metadata, icc_profile=picture.icc)

    write_whole(path, write)


def eight_bit(picture: Picture) -> np.ndarray:
    """A picture as uint8 [H,W,3|4], with opacity where it has one."""
    return _codes(picture, 255).astype(np.uint8)


def _codes(picture: Picture, top: int) -> np.ndarray:
    """A picture as uint16 [H,W,3|4] in 0..top."""
    values = picture.rgb if picture.alpha is None else np.dstack([picture.rgb, picture.alpha * 255])
    return np.asarray(np.rint(np.clip(values, 0, 255) * (top / 255)), np.uint16)


def unkept(path: Path, picture: Picture, settings: dict[str, Any] | None = None) -> list[str]:
    """What a file cannot keep of a picture, a line each.

    Args:
        path: Where it would be written; a GIF or WebP may be an animation.
        picture: The picture.
        settings: What would be stored in it.
    """
    suffix, metadata = path.suffix.lower(), picture.metadata
    kind = {".png": "PNG", ".webp": "WebP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF"}.get(suffix, "JPEG")
    lines = []
    if suffix in _JPEG and picture.alpha is not None and picture.alpha.min() < 1:
        lines.append("JPEG has no opacity; the picture is laid over white")
    if suffix not in (".png", *_TIFF) and picture.bits > 8:
        lines.append(f"{kind} has 8 bits a channel, to which {picture.bits} are rounded")
    if suffix in _JPEG:
        for name in too_long_for_jpeg(metadata, picture.rgb.shape[:2], settings):
            lines.append(f"the picture's {name} is longer than JPEG can hold and is left out")
    if suffix == ".gif" and picture.alpha is not None and ((picture.alpha > 0) & (picture.alpha < 1)).any():
        lines.append("GIF has no half opacity, which becomes all or nothing")
    missing = {".webp": ("iptc",), ".gif": ("exif", "xmp", "iptc")}.get(suffix, ())
    if left := [name.upper() for name in missing if getattr(metadata, name)]:
        lines.append(
            f"{kind} has no place for {' and '.join(left)}, which {'is' if len(left) == 1 else 'are'} left out"
        )
    kept = {".png": {key for key, _ in metadata.texts}, ".jpg": {"Comment"}, ".jpeg": {"Comment"}}.get(suffix, set())
    if texts := [key for key, _ in metadata.texts if key not in kept and key not in TEXT_TAGS]:
        more = ", …" * (len(texts) > 3)
        lines.append(f"{kind} has no place for texts ({', '.join(texts[:3])}{more}), which are left out")
    return [f"{path}: {line}" for line in lines]


def write_frames(
    to: Path,
    frames: Iterable[np.ndarray],
    settings: dict[str, Any] | None = None,
    metadata: Metadata = _NOTHING,
    **options: Any,
) -> None:
    """Write a still picture of 8 bits, or several frames as an animation.

    Args:
        to: A PNG, JPEG, WebP or GIF file.
        frames: uint8 [H,W,3|4], all of one size.
        settings: Found again by `read_settings`.
        metadata: Kept as far as the format can; none in GIF.
        **options: For Pillow's writer; animations need `save_all`.

    Raises:
        OSError, ValueError: What Pillow raises when it cannot write them.
    """
    import imageio.v3 as iio

    suffix = to.suffix.lower()
    frames = iter(frames)
    first = next(frames)
    build = {".png": png_options, ".webp": webp_options}.get(suffix, jpeg_options)
    if suffix == ".gif":
        options["comment"] = settings_note(settings).encode()
    else:
        options |= build(metadata, first.shape[:2], settings)
    if suffix in (*_JPEG, ".webp"):
        options.setdefault("quality", 95)
    if options.get("save_all") and first.shape[2] == 4:
        # In WebP only frames on their own: libwebp loses the opacity of others whose edges are wholly transparent.
        options |= {"disposal": 2} if suffix == ".gif" else {"kmin": 0, "kmax": 1}
    with to.open("wb") as stream, iio.imopen(stream, "w", plugin="pillow", extension=suffix) as file:
        for frame in chain([first], frames):
            file.write(frame, **options)


def _write_deep_png(to: Path, pixels: np.ndarray, icc: bytes | None, options: dict[str, Any]) -> None:
    """Write uint16 [H,W,3|4]: the pixels by OpenCV, profile, settings and metadata put in after."""
    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, order))
    if not ok:
        raise OSError("OpenCV could not encode it")
    data = encoded.tobytes()
    chunks = _png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)) if icc else b""
    if "dpi" in options:
        x, y = (round(dpi / 0.0254) for dpi in options["dpi"])
        chunks += _png_chunk(b"pHYs", struct.pack(">IIB", x, y, 1))  # pixels a metre
    if "exif" in options:
        chunks += _png_chunk(b"eXIf", options["exif"].removeprefix(b"Exif\0\0"))
    chunks += b"".join(_png_chunk(kind, text) for kind, text, *_ in options["pnginfo"].chunks)
    to.write_bytes(data[:33] + chunks + data[33:])  # behind the signature and the header chunk


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings onnxdream stored in a picture it wrote.

    Raises:
        PictureError: The picture cannot be read, or carries no settings.
    """
    with _reported(path), open_frames(path) as image:
        settings = stored_settings(path, image)
    if settings is None:
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
