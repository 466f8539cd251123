"""Between the frames of a codec and RGB pictures, exactly: the right matrix, the right range, rounded once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import av

UNKNOWN = 2  # "unspecified" among the code points below
LIMITED, FULL = 1, 2
# The shares of red and blue in lightness, by the matrix's code point in ITU-T H.273.
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}


@dataclass(frozen=True)
class ColorTags:
    """How a source says its colours are meant: code points of ITU-T H.273, 2 where it says nothing.

    Attributes:
        primaries: The primaries' code point.
        transfer: That of the transfer characteristics.
        matrix: That of the matrix coefficients.
        range: 1 for limited (16..235 of 8 bits), 2 for full, 0 where the source says nothing.
    """

    primaries: int = UNKNOWN
    transfer: int = UNKNOWN
    matrix: int = UNKNOWN
    range: int = 0


SRGB = ColorTags(primaries=1, transfer=13, matrix=1, range=0)  # pictures; as video they get the BT.709 matrix


def matrix_of(color: ColorTags, width: int, height: int) -> int:
    """The matrix meant by `color`; where it says none, what players take: BT.709 for HD, BT.601 below it."""
    if color.matrix in WEIGHTS:
        return color.matrix
    if color.matrix == UNKNOWN:
        return 1 if max(width, height) >= 1280 or min(width, height) > 576 else 6
    return 1


@lru_cache(maxsize=32)
def _to_rgb(matrix: int, full: bool, depth: int, top: int) -> np.ndarray:
    """[3,4]: (Y, Cb, Cr, 1) in codes of `depth` bits -> RGB in 0..top."""
    red, blue = WEIGHTS[matrix]
    green = 1 - red - blue
    black, luma, chroma = _range(full, depth)
    linear = np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
            [1, 2 * (1 - blue), 0],
        ]
    ) * (top / np.array([luma, chroma, chroma]))
    return np.column_stack([linear, -linear @ [black, 1 << (depth - 1), 1 << (depth - 1)]])


@lru_cache(maxsize=32)
def _to_yuv(matrix: int, full: bool, depth: int, top: int) -> np.ndarray:
    """[3,4]: (R, G, B, 1) in 0..top -> YCbCr in codes of `depth` bits."""
    back = _to_rgb(matrix, full, depth, top)
    linear = np.linalg.inv(back[:, :3])
    return np.column_stack([linear, -linear @ back[:, 3]])


def _range(full: bool, depth: int) -> tuple[int, int, int]:
    """Black, the span of lightness and the span of colour, in codes of `depth` bits."""
    if full:
        return 0, (1 << depth) - 1, (1 << depth) - 1
    return 16 << (depth - 8), 219 << (depth - 8), 224 << (depth - 8)


def yuv_to_rgb(planes: list[np.ndarray], depth: int, matrix: int, *, full: bool) -> np.ndarray:
    """Planes of YCbCr as RGB.

    Args:
        planes: Y, Cb, Cr [H,W] in codes of `depth` bits.
        depth: Bits per channel, at least 8.
        matrix: Its code point in ITU-T H.273.
        full: Whether codes span the full range.

    Returns:
        [H,W,3], uint8 when `depth` is 8, else uint16 over the full range.
    """
    top = 255 if depth == 8 else 65535
    # In 16 bits even for 8: OpenCV rounds twice there.
    rgb = cv2.transform(cv2.merge(planes).astype(np.uint16, copy=False), _to_rgb(matrix, full, depth, top))
    return cv2.convertScaleAbs(rgb) if top == 255 else rgb


def rgb_to_yuv(image: np.ndarray, depth: int, matrix: int, *, full: bool) -> list[np.ndarray]:
    """RGB [H,W,3], uint8 or uint16, as planes Y, Cb, Cr [H,W] in codes of `depth` bits, uint8 or uint16."""
    top = 255 if image.dtype == np.uint8 else 65535
    yuv = cv2.transform(image.astype(np.uint16, copy=False), _to_yuv(matrix, full, depth, top))
    return list(cv2.split(cv2.convertScaleAbs(yuv) if depth == 8 else np.minimum(yuv, (1 << depth) - 1)))


def grey_to_rgb(plane: np.ndarray, depth: int, *, full: bool) -> np.ndarray:
    """Lightness [H,W] in codes of `depth` bits as RGB [H,W,3], uint8 when `depth` is 8, else uint16."""
    black, span, _ = _range(full, depth)
    top = 255 if depth == 8 else 65535
    table = np.clip(np.rint((np.arange(1 << depth) - black) * (top / span)), 0, top)
    codes = table.astype(np.uint8 if top == 255 else np.uint16)
    return np.repeat(codes[plane][:, :, None], 3, axis=2)


def rescaled(plane: np.ndarray, top: int, new_top: int) -> np.ndarray:
    """Codes in 0..top as codes in 0..new_top, rounded; uint8 up to 255, else uint16."""
    kind = np.uint8 if new_top <= 255 else np.uint16
    if top == new_top:
        return np.ascontiguousarray(plane, kind)
    return ((plane.astype(np.uint32) * new_top + top // 2) // top).astype(kind)


def over_white(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`image` [H,W,3] laid over white by `alpha` [H,W]; both uint8 or uint16 over their full range."""
    top = 255 if image.dtype == np.uint8 else 65535
    share = (alpha.astype(np.float32) / top)[:, :, None]
    return np.rint(image * share + top * (1 - share)).astype(image.dtype)


def to_eight_bit(image: np.ndarray) -> np.ndarray:
    """uint8 or uint16 over its full range, as uint8."""
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255 / 65535)


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 or uint16 over its full range, as float32 in 0..255."""
    values = image.astype(np.float32)
    return values if image.dtype == np.uint8 else np.multiply(values, np.float32(255 / 65535), out=values)


def from_float(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    """float32 in 0..255 as uint8 or uint16 over its full range, rounded."""
    if kind == np.uint8:
        return cv2.convertScaleAbs(values)
    return cv2.addWeighted(values, 65535 / 255, values, 0, 0, dtype=cv2.CV_16U)


def depth_of(pixels: av.VideoFormat) -> int:
    """Bits per channel."""
    return max(c.bits for c in pixels.components)


def has_alpha(pixels: av.VideoFormat) -> bool:
    """Whether the format has a channel of opacity."""
    return any(c.is_alpha for c in pixels.components)


def _is_full(pixels: av.VideoFormat, color_range: int) -> bool:
    """Whether codes span the full range: as tagged, else by what the format implies."""
    implied = pixels.name.startswith(("yuvj", "gray"))
    return color_range == FULL or pixels.name.startswith("yuvj") or (implied and color_range == 0)


def read_frame(
    frame: av.VideoFrame, size: tuple[int, int], matrix: int, *, alpha: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """A decoded frame as arrays, uint8 for formats of 8 bits, else uint16 over the full range.

    Args:
        frame: The frame, of any pixel format.
        size: (width, height) of the result.
        matrix: Its code point in ITU-T H.273.
        alpha: Whether opacity is asked for.

    Returns:
        RGB [H,W,3], and opacity [H,W] or None.
    """
    pixels = frame.format
    depth = depth_of(pixels)
    full = _is_full(pixels, frame.color_range)
    width, height = size
    top = 255 if depth <= 8 else 65535
    if pixels.is_rgb or pixels.has_palette or len(pixels.components) == 2 or pixels.name.startswith(("xyz", "mono")):
        frame.color_range = FULL
        array = _resampled(frame, _packed_rgb(depth, alpha), width, height).to_ndarray()
        return np.ascontiguousarray(array[:, :, :3]), np.ascontiguousarray(array[:, :, 3]) if alpha else None
    # Source and result must name the same range, or swscale converts between them.
    frame.color_range = FULL if full else LIMITED
    depth = max(depth, 8)
    ending = "" if depth == 8 else f"{depth}le"
    if len(pixels.components) == 1:
        grey = _planes(_resampled(frame, f"gray{ending}", width, height))[0]
        return grey_to_rgb(grey, depth, full=full), None
    name_444 = f"yuv{'a' if has_alpha(pixels) else ''}444p{ending}"
    planes = _planes(_resampled(frame, name_444, width, height))
    opacity = rescaled(planes[3], (1 << depth) - 1, top) if alpha else None
    return yuv_to_rgb(planes[:3], depth, matrix, full=full), opacity


def _packed_rgb(depth: int, alpha: bool) -> str:
    """The name of the format of RGB in one plane."""
    if depth <= 8:
        return "rgba" if alpha else "rgb24"
    return "rgba64le" if alpha else "rgb48le"


def working_format(pixels: av.VideoFormat) -> str:
    """The name of the format that `fill_frame` takes and from which the encoder's one is made without arithmetic."""
    depth, alpha = depth_of(pixels), has_alpha(pixels)
    if pixels.is_rgb:
        return _packed_rgb(depth, alpha)
    return f"yuv{'a' if alpha else ''}444p" + ("" if depth <= 8 else f"{depth}le")


def fill_frame(blank: av.VideoFrame, image: np.ndarray, alpha: np.ndarray | None, matrix: int, *, full: bool) -> None:
    """Fill a frame with a picture.

    Args:
        blank: A frame of a working format.
        image: RGB [H,W,3], uint8 or uint16.
        alpha: Opacity [H,W] of the same type; opaque if None.
        matrix: Its code point in ITU-T H.273.
        full: Whether codes span the full range.
    """
    pixels = blank.format
    depth, opaque = depth_of(pixels), has_alpha(pixels)
    top = 255 if image.dtype == np.uint8 else 65535
    code_top = (1 << depth) - 1
    planes: list[np.ndarray] = []
    if opaque:
        whole = np.full(image.shape[:2], code_top, np.uint8 if depth <= 8 else np.uint16)
        planes = [whole if alpha is None else rescaled(alpha, top, code_top)]
    if pixels.is_rgb:
        planes = [np.dstack([rescaled(image, top, code_top), *planes]).reshape(image.shape[0], -1)]
    else:
        planes = [*rgb_to_yuv(image, depth, matrix, full=full), *planes]
    for target, plane in zip(blank.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(target), plane.dtype).reshape(target.height, -1)
        rows[:, : plane.shape[1]] = plane
    blank.colorspace = 0 if pixels.is_rgb else matrix
    blank.color_range = FULL if full or pixels.is_rgb else LIMITED


def to_pix_fmt(filled: av.VideoFrame, pix_fmt: str) -> av.VideoFrame:
    """A filled working frame in the encoder's own format; only chroma is resampled."""
    return _resampled(filled, pix_fmt, filled.width, filled.height)


def _resampled(frame: av.VideoFrame, pix_fmt: str, width: int, height: int) -> av.VideoFrame:
    """swscale only moves and resamples planes here; the arithmetic of colour is above.

    One thread: with more, some of its results hold rows of garbage.
    """
    return frame.reformat(width, height, pix_fmt, interpolation="BICUBIC", threads=1)


def _planes(frame: av.VideoFrame) -> list[np.ndarray]:
    kind = np.uint8 if depth_of(frame.format) <= 8 else np.uint16
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:, : plane.width]
        planes.append(rows[::-1] if plane.line_size < 0 else rows)
    return planes
