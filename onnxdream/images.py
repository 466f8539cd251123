"""Still pictures: reading, writing, resizing, colour, and the settings a picture carries."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imageio.v3 as iio
import numpy as np

from .errors import OutputError, PictureError

# Above this a file is more likely a decompression bomb than a picture.
MAX_PIXELS = 400_000_000
SETTINGS_KEY = "onnxdream"
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
_EXIF_DESCRIPTION = 0x010E
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Picture:
    """A still picture, upright.

    `rgb` is float32 [H,W,3] in 0..255 whatever the file's depth; `alpha` is float32 [H,W] in 0..1 or None; `bits` is 8 or
    16; `icc` is the file's colour profile.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    bits: int = 8
    icc: bytes | None = None


def read_picture(path: Path) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF or any other still picture Pillow or OpenCV knows.

    EXIF rotation is applied, grey and palette become RGB, alpha is kept apart. Raises PictureError when the file is
    missing, empty, damaged, no picture, or has more than 400 million pixels.
    """
    if not path.exists():
        raise PictureError(f"{path}: no such file")
    if path.is_dir():
        raise PictureError(f"{path}: is a folder, not a picture")
    if path.stat().st_size == 0:
        raise PictureError(f"{path}: the file is empty")
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # the check below says more than Pillow's warning
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PictureError(f"{path}: {width}x{height} is more than {MAX_PIXELS // 10**6} million pixels")
            icc = image.info.get("icc_profile")
            deep = _read_deep(path) if image.format in ("PNG", "TIFF") else None
            if deep is not None:
                turned = image.getexif().get(_EXIF_ORIENTATION, 1)
                return _split(_upright(deep, turned), 65535, icc)
            upright = ImageOps.exif_transpose(image)
            has_alpha = "A" in upright.getbands() or "transparency" in upright.info
            return _split(np.asarray(upright.convert("RGBA" if has_alpha else "RGB")), 255, icc)
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"{path}: not a picture, or of a kind that cannot be read") from error
    except Exception as error:
        raise PictureError(f"{path}: the picture is damaged or cut off ({_reason(error)})") from error


def _read_deep(path: Path) -> np.ndarray | None:
    """The picture as uint16 [H,W,1|3|4] where the file has 16 bits a channel, else None; Pillow would cut it to 8."""
    raw = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16:
        return None
    if raw.ndim == 2:
        return raw[:, :, None]
    order = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    return cv2.cvtColor(raw, order[raw.shape[2]]) if raw.shape[2] in order else raw[:, :, :1]


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1..8) on [H,W,C]."""
    if orientation in (2, 4, 5, 7):
        array = array[:, ::-1]
    turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return np.rot90(array, turns)


def _split(array: np.ndarray, top: int, icc: bytes | None) -> Picture:
    values = array.astype(np.float32) * (255 / top)
    rgb = values[:, :, :3] if values.shape[2] >= 3 else np.repeat(values[:, :, :1], 3, 2)
    alpha = values[:, :, 3] / 255 if values.shape[2] == 4 else None
    return Picture(np.ascontiguousarray(rgb), alpha, 16 if top > 255 else 8, icc)


def check_writable(path: Path) -> None:
    """Raise OutputError, before any work is done, when a picture cannot be written to `path`."""
    if path.suffix.lower() not in WRITABLE:
        raise OutputError(f"{path}: cannot write {path.suffix or 'a file without an ending'}; use {', '.join(WRITABLE)}")
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder to write into")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: cannot be written (is it a folder, or is the folder read-only?)")


def write_picture(path: Path, picture: Picture, settings: dict[str, Any] | None = None) -> None:
    """Write `picture` in the format of the path's ending, with `settings` inside; the file appears when it is whole.

    PNG and TIFF keep 16 bits; JPEG has no alpha, which is laid over white. Raises OutputError.
    """
    check_writable(path)
    suffix = path.suffix.lower()
    deep = picture.bits == 16 and suffix in (".png", ".tif", ".tiff")
    alpha = picture.alpha
    rgb = picture.rgb
    if alpha is not None and suffix in (".jpg", ".jpeg"):
        rgb, alpha = rgb * alpha[:, :, None] + 255 * (1 - alpha[:, :, None]), None
    values = rgb if alpha is None else np.dstack([rgb, alpha * 255])
    text = json.dumps(settings) if settings else ""

    def write(to: Path) -> None:
        if deep:
            _write_deep(to, suffix, values, text, picture.icc)
        else:
            pixels = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
            iio.imwrite(to, pixels, plugin="pillow", extension=suffix, **_metadata(suffix, text, picture.icc))

    write_whole(path, write)


def _metadata(suffix: str, text: str, icc: bytes | None) -> dict[str, Any]:
    """Pillow's save options for a format: quality, profile, and the settings as a PNG text or EXIF description."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    options: dict[str, Any] = {"icc_profile": icc} if icc else {}
    if suffix in (".jpg", ".jpeg", ".webp"):
        options["quality"] = 95
    if suffix in (".tif", ".tiff"):
        options["compression"] = "tiff_adobe_deflate"
    if text and suffix == ".png":
        info = PngInfo()
        info.add_itxt(SETTINGS_KEY, text)
        options["pnginfo"] = info
    elif text:
        exif = Image.Exif()
        exif[_EXIF_DESCRIPTION] = f"{SETTINGS_KEY} {text}"
        options["exif"] = exif
    return options


def _write_deep(to: Path, suffix: str, values: np.ndarray, text: str, icc: bytes | None) -> None:
    """16 bits a channel through OpenCV, which Pillow cannot; the settings go into EXIF where OpenCV can put them."""
    from PIL import Image

    pixels = np.rint(np.clip(values, 0, 255) * 257).astype(np.uint16)
    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    encoded = cv2.cvtColor(pixels, order)
    if suffix == ".png" and hasattr(cv2, "imencodeWithMetadata"):
        exif = Image.Exif()
        exif[_EXIF_DESCRIPTION] = f"{SETTINGS_KEY} {text}"
        kinds, chunks = [cv2.IMAGE_METADATA_EXIF], [np.frombuffer(exif.tobytes()[6:], np.uint8)]
        if icc:
            kinds.append(cv2.IMAGE_METADATA_ICCP)
            chunks.append(np.frombuffer(icc, np.uint8))
        ok, data = cv2.imencodeWithMetadata(suffix, encoded, kinds, chunks)
    else:
        ok, data = cv2.imencode(suffix, encoded)
    if not ok:
        raise OSError("OpenCV could not encode it")
    to.write_bytes(data.tobytes())


def read_settings(path: Path) -> dict[str, Any]:
    """The settings onnxdream stored in a picture it wrote. Raises PictureError when there are none."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            text = image.info.get(SETTINGS_KEY, "")
            if not text:
                description = str(image.getexif().get(_EXIF_DESCRIPTION, ""))
                text = description.removeprefix(SETTINGS_KEY) if description.startswith(SETTINGS_KEY) else ""
        settings = json.loads(text)
    except OSError as error:
        raise PictureError(f"{path}: cannot be read as a picture ({_reason(error)})") from error
    except ValueError as error:
        raise PictureError(f"{path}: carries no onnxdream settings") from error
    if not isinstance(settings, dict):
        raise PictureError(f"{path}: carries no onnxdream settings")
    return settings


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary name beside `path`, and rename the result into place when it is whole.

    Raises OutputError when it cannot be written; nothing is left behind and nothing overwritten then.
    """
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {_reason(error)}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def to_batch(picture: np.ndarray) -> np.ndarray:
    """[H,W,3] RGB in 0..255, uint8 or float -> float32 [1,3,H,W]. Raises PictureError for any other shape."""
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise PictureError(f"a picture must be [H,W,3] RGB; this array is {list(array.shape)}")
    return np.ascontiguousarray(array.astype(np.float32).transpose(2, 0, 1)[None])


def from_batch(batch: np.ndarray) -> np.ndarray:
    """float32 [1,3,H,W] -> float32 [H,W,3]."""
    return np.ascontiguousarray(batch[0].transpose(1, 2, 0))


def resize(batch: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """[N,3,h,w] to [N,3,*size]: area averages going down, cubic going up."""
    if batch.shape[2:] == tuple(size):
        return batch
    shrinks = size[0] < batch.shape[2] or size[1] < batch.shape[3]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    planes = [[cv2.resize(plane, (size[1], size[0]), interpolation=method) for plane in image] for image in batch]
    return np.asarray(planes, np.float32)


def keep_colors(dreamed: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The lightness of `dreamed` with the colours of `source`; both float32 [H,W,3] RGB in 0..255 (CIE L*a*b*)."""
    lab, original = (cv2.cvtColor(np.ascontiguousarray(p) / 255, cv2.COLOR_RGB2LAB) for p in (dreamed, source))
    mixed = np.dstack([lab[:, :, :1], original[:, :, 1:]])
    return np.clip(cv2.cvtColor(mixed, cv2.COLOR_LAB2RGB), 0, 1) * 255


def noise(size: tuple[int, int], seed: int) -> np.ndarray:
    """A grey picture [H,W,3] float32 of coloured noise to dream from, smooth at every scale."""
    rng = np.random.default_rng(seed)
    height, width = size
    picture = np.full((height, width, 3), 117.0, np.float32)
    for scale in (1, 4, 16, 64):
        coarse = rng.normal(0, 9, (max(1, height // scale), max(1, width // scale), 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255)


def zoomed(picture: np.ndarray, zoom: float, degrees: float) -> np.ndarray:
    """`picture` [H,W,3] enlarged `zoom` times and turned counter-clockwise around its centre, edges mirrored."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom)
    return cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
