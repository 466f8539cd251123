"""Between decoded or to-be-encoded frames and arrays: every pixel format, and every way a camera can be held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .color import FULL, bgr_to_yuv, grey_to_bgr, rescaled, yuv_to_bgr

if TYPE_CHECKING:
    import av

BoundRun = tuple[bool, bool, bool]  # transpose, then mirror left-right, then mirror top-bottom
UPRIGHT: BoundRun = (False, False, False)


def depth_of(pixels: av.VideoFormat) -> int:
    """Bits a channel."""
    return max(c.bits for c in pixels.components)


def has_alpha(pixels: av.VideoFormat) -> bool:
    """Whether the format has a channel of opacity."""
    return any(c.is_alpha for c in pixels.components)


def is_full(pixels: av.VideoFormat, color_range: int) -> bool:
    """Whether codes span the full range: as tagged, else by what the format implies."""
    implied = pixels.name.startswith(("yuvj", "gray"))
    return color_range == FULL or pixels.name.startswith("yuvj") or (implied and color_range == 0)


def read(
    frame: av.VideoFrame, size: tuple[int, int], matrix: int, *, alpha: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """A decoded frame as [H,W,3] BGR and, when `alpha` is asked for, [H,W] opacity, for `size` (width, height).

    uint8 for formats of 8 bits, else uint16 over the full range. `matrix` is its code point in ITU-T H.273.
    """
    pixels = frame.format
    depth = depth_of(pixels)
    full = is_full(pixels, frame.color_range)
    width, height = size
    top = 255 if depth <= 8 else 65535
    if pixels.is_rgb or pixels.has_palette or len(pixels.components) == 2 or pixels.name.startswith(("xyz", "mono")):
        frame.color_range = FULL
        name = {(8, False): "bgr24", (8, True): "bgra", (16, False): "bgr48le", (16, True): "bgra64le"}
        array = _resampled(frame, name[8 if depth <= 8 else 16, alpha], width, height).to_ndarray()
        return np.ascontiguousarray(array[:, :, :3]), np.ascontiguousarray(array[:, :, 3]) if alpha else None
    # Source and result must name the same range, or swscale converts between them.
    frame.color_range = FULL if full else 1
    depth = max(depth, 8)
    ending = "" if depth == 8 else f"{depth}le"
    if len(pixels.components) == 1:
        grey = _planes(_resampled(frame, f"gray{ending}", width, height))[0]
        return grey_to_bgr(grey, depth, full=full), None
    name_444 = f"yuv{'a' if has_alpha(pixels) else ''}444p{ending}"
    planes = _planes(_resampled(frame, name_444, width, height))
    opacity = rescaled(planes[3], (1 << depth) - 1, top) if alpha else None
    return yuv_to_bgr(planes[:3], depth, matrix, full=full), opacity


def working_format(pixels: av.VideoFormat) -> str:
    """The name of the format that `write` fills and from which the encoder's one is made without arithmetic."""
    depth, alpha = depth_of(pixels), has_alpha(pixels)
    if pixels.is_rgb:
        return ("bgra" if alpha else "bgr24") if depth <= 8 else ("bgra64le" if alpha else "bgr48le")
    return f"yuv{'a' if alpha else ''}444p" + ("" if depth <= 8 else f"{depth}le")


def write(blank: av.VideoFrame, image: np.ndarray, alpha: np.ndarray | None, matrix: int, *, full: bool) -> None:
    """Fill `blank`, a frame of a working format, with [H,W,3] BGR and [H,W] opacity (opaque when None)."""
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
        planes = [*bgr_to_yuv(image, depth, matrix, full=full), *planes]
    for target, plane in zip(blank.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(target), plane.dtype).reshape(target.height, -1)
        rows[:, : plane.shape[1]] = plane
    blank.colorspace = 0 if pixels.is_rgb else matrix
    blank.color_range = FULL if full or pixels.is_rgb else 1


def encodable(filled: av.VideoFrame, pix_fmt: str) -> av.VideoFrame:
    """A filled working frame in the encoder's own format; only chroma is resampled."""
    return _resampled(filled, pix_fmt, filled.width, filled.height)


def _resampled(frame: av.VideoFrame, pix_fmt: str, width: int, height: int) -> av.VideoFrame:
    """swscale only moves and resamples planes here; the arithmetic of colour is in colors.py.

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


def turn_of(frame: av.VideoFrame) -> BoundRun:
    """How to bring the frame upright, from the display matrix it carries."""
    carried: Any = frame.side_data
    matrix = carried.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def turned(array: np.ndarray, turn: BoundRun) -> np.ndarray:
    """[H,W] or [H,W,C] brought upright, contiguous."""
    transpose, mirror_x, mirror_y = turn
    if transpose:
        array = array.swapaxes(0, 1)
    if mirror_x:
        array = array[:, ::-1]
    if mirror_y:
        array = array[::-1]
    return np.ascontiguousarray(array)
