"""Between YUV planes and BGR pictures, exactly: the right matrix, the right range, rounded once."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from .frames import UNKNOWN, ColorTags

# The shares of red and blue in lightness, by the matrix's code point in ITU-T H.273.
WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
LIMITED, FULL = 1, 2


def matrix_of(color: ColorTags, width: int, height: int) -> int:
    """The matrix meant by `color`; where it says none, what players take: BT.709 for HD, BT.601 below it."""
    if color.matrix in WEIGHTS:
        return color.matrix
    if color.matrix == UNKNOWN:
        return 1 if max(width, height) >= 1280 or min(width, height) > 576 else 6
    return 1


@lru_cache(maxsize=32)
def _to_bgr(matrix: int, full: bool, depth: int, top: int) -> np.ndarray:
    """[3,4]: (Y, Cb, Cr, 1) in codes of `depth` bits -> BGR in 0..top."""
    red, blue = WEIGHTS[matrix]
    green = 1 - red - blue
    black, luma, chroma = _range(full, depth)
    linear = np.array(
        [
            [1, 2 * (1 - blue), 0],
            [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
            [1, 0, 2 * (1 - red)],
        ]
    ) * (top / np.array([luma, chroma, chroma]))
    return np.column_stack([linear, -linear @ [black, 1 << (depth - 1), 1 << (depth - 1)]])


@lru_cache(maxsize=32)
def _to_yuv(matrix: int, full: bool, depth: int, top: int) -> np.ndarray:
    """[3,4]: (B, G, R, 1) in 0..top -> YCbCr in codes of `depth` bits."""
    back = _to_bgr(matrix, full, depth, top)
    linear = np.linalg.inv(back[:, :3])
    return np.column_stack([linear, -linear @ back[:, 3]])


def _range(full: bool, depth: int) -> tuple[int, int, int]:
    """Black, the span of lightness and the span of colour, in codes of `depth` bits."""
    if full:
        return 0, (1 << depth) - 1, (1 << depth) - 1
    return 16 << (depth - 8), 219 << (depth - 8), 224 << (depth - 8)


def yuv_to_bgr(planes: list[np.ndarray], depth: int, matrix: int, *, full: bool) -> np.ndarray:
    """Planes Y, Cb, Cr [H,W] in codes of `depth` bits -> [H,W,3] BGR, uint8 when `depth` is 8, else uint16."""
    top = 255 if depth == 8 else 65535
    # In 16 bits even for 8: OpenCV rounds twice there.
    merged = cv2.merge([np.ascontiguousarray(p, np.uint16) for p in planes])
    bgr = cv2.transform(merged, _to_bgr(matrix, full, depth, top))
    return np.minimum(bgr, 255).astype(np.uint8) if top == 255 else np.asarray(bgr)


def bgr_to_yuv(image: np.ndarray, depth: int, matrix: int, *, full: bool) -> list[np.ndarray]:
    """[H,W,3] BGR, uint8 or uint16 -> planes Y, Cb, Cr [H,W] in codes of `depth` bits, uint8 or uint16."""
    top = 255 if image.dtype == np.uint8 else 65535
    yuv = np.minimum(cv2.transform(image.astype(np.uint16), _to_yuv(matrix, full, depth, top)), (1 << depth) - 1)
    return list(cv2.split(yuv.astype(np.uint8) if depth == 8 else yuv))


def grey_to_bgr(plane: np.ndarray, depth: int, *, full: bool) -> np.ndarray:
    """Lightness [H,W] in codes of `depth` bits -> [H,W,3] BGR, uint8 when `depth` is 8, else uint16."""
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
