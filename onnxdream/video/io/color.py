"""Between the frames of a codec and RGB pictures, exactly: the right matrix, the right range, rounded once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
import cv2
import numpy as np
from av.filter import Graph

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
MATRIX_OF_PRIMARIES = {5: 5, 6: 6, 7: 7, 9: 9}  # what RGB of these primaries becomes YCbCr by; of others, BT.709


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


@dataclass(frozen=True)
class YuvFormat:
    """What the planes of a YCbCr picture mean.

    Attributes:
        depth: Bits per channel, at least 8.
        steps: How many pixels, (across, down), share one sample of chroma: (2, 2) is 4:2:0.
        matrix: The matrix, its code point in ITU-T H.273.
        full: Whether codes span the full range.
        siting: Where chroma's samples lie, in FFmpeg's words: left, center, topleft, top, bottomleft or bottom.
    """

    depth: int
    steps: tuple[int, int]
    matrix: int
    full: bool
    siting: str = "left"

    def offsets(self) -> tuple[float, float]:
        """How many pixels, (across, down), the first sample of chroma lies from the first pixel."""
        across = 0.5 if self.siting in ("center", "top", "bottom") else 0
        down = 0 if self.siting.startswith("top") else 1 if self.siting.startswith("bottom") else 0.5
        return across * (self.steps[0] - 1), down * (self.steps[1] - 1)


@dataclass(frozen=True)
class YuvPlanes:
    """A YCbCr picture as it was decoded.

    Attributes:
        planes: Y [H,W], Cb, Cr, in codes.
        format: What they mean.
    """

    planes: list[np.ndarray]
    format: YuvFormat


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


def chroma_steps(pixels: av.VideoFormat) -> tuple[int, int]:
    """How many pixels, (across, down), share one sample of chroma; (1, 1) for formats without."""
    if pixels.is_rgb or len(pixels.components) < 3:
        return 1, 1
    return 8 // pixels.chroma_width(8), 8 // pixels.chroma_height(8)


def chroma_name(steps: tuple[int, int]) -> str:
    """What chroma is called of which a sample is shared by so many pixels, (across, down), such as 420."""
    names = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440", (4, 1): "411", (4, 4): "410"}
    return names.get(steps, "444")


def siting_of(frame: av.VideoFrame) -> str:
    """Where a frame's samples of chroma lie, see YuvFormat; left, as in MPEG, where it does not say.

    PyAV has no attribute for it; FFmpeg's filter showinfo tells.
    """
    if chroma_steps(frame.format) == (1, 1):
        return "left"
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)),
        graph.add("sidedata", "delete"),
        graph.add("showinfo", "checksum=0"),
        graph.add("buffersink"),
    ).configure()
    before = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture(local=True) as told:
            graph.vpush(frame)
            graph.vpull()
    finally:
        av.logging.set_level(before)
    found = re.search(r"\bcl:(\w+)", "".join(text for _, _, text in told))
    return found[1] if found and found[1] != "unspecified" else "left"


def read_frame(
    frame: av.VideoFrame, size: tuple[int, int], matrix: int, siting: str = "left", *, alpha: bool
) -> tuple[np.ndarray, np.ndarray | None, YuvPlanes | None]:
    """A decoded frame as arrays, uint8 for formats of 8 bits, else uint16 over the full range.

    Args:
        frame: The frame, of any pixel format.
        size: (width, height) of the result.
        matrix: Its code point in ITU-T H.273.
        siting: Where chroma's samples lie, see YuvFormat.
        alpha: Whether opacity is asked for.

    Returns:
        RGB [H,W,3], opacity [H,W] or None, and what RGB was made from, None unless it was YCbCr.
    """
    pixels = frame.format
    depth = depth_of(pixels)
    full = _is_full(pixels, frame.color_range)
    width, height = size
    top, kind = (255, np.uint8) if depth <= 8 else (65535, np.uint16)
    if is_rgb(pixels):
        frame.color_range = FULL
        array = _resampled(frame, _packed_rgb(depth, alpha), width, height).to_ndarray()
        return np.ascontiguousarray(array[:, :, :3]), np.ascontiguousarray(array[:, :, 3]) if alpha else None, None
    # Source and result must name the same range, or swscale converts between them.
    frame.color_range = FULL if full else LIMITED
    depth = max(depth, 8)
    if len(pixels.components) == 1:
        grey = _planes(_resampled(frame, f"gray{_ending(depth)}", width, height))[0]
        return grey_to_rgb(grey, depth, full=full), np.full(grey.shape, top, kind) if alpha else None, None
    planes = _planes(_resampled(frame, _planar(pixels), width, height))
    opacity = None
    if alpha:  # which some frames of a film may lack
        opacity = rescaled(planes[3], (1 << depth) - 1, top) if len(planes) > 3 else np.full((height, width), top, kind)
    source = YuvPlanes(planes[:3], YuvFormat(depth, chroma_steps(pixels), matrix, full, siting))
    chroma = [_enlarged(plane, source.format, size) for plane in planes[1:3]]
    return yuv_to_rgb([planes[0], *chroma], depth, matrix, full=full), opacity, source


def is_rgb(pixels: av.VideoFormat) -> bool:
    """Whether the format is neither YCbCr nor grey alone."""
    return pixels.is_rgb or pixels.has_palette or len(pixels.components) == 2 or pixels.name.startswith(("xyz", "mono"))


def _ending(depth: int) -> str:
    return "" if depth == 8 else f"{depth}le"


def _packed_rgb(depth: int, alpha: bool) -> str:
    """The name of the format of RGB in one plane."""
    if depth <= 8:
        return "rgba" if alpha else "rgb24"
    return "rgba64le" if alpha else "rgb48le"


def _planar(pixels: av.VideoFormat) -> str:
    """The name of the format with the same YCbCr samples, each channel in a plane of its own."""
    if pixels.name.startswith("yuvj"):
        return pixels.name
    return (
        f"yuv{'a' if has_alpha(pixels) else ''}{chroma_name(chroma_steps(pixels))}p{_ending(max(8, depth_of(pixels)))}"
    )


def _enlarged(chroma: np.ndarray, form: YuvFormat, size: tuple[int, int]) -> np.ndarray:
    """A plane of chroma with a sample for every pixel of a picture of (width, height)."""
    if form.steps == (1, 1):
        return chroma
    (across, down), (left, top) = form.steps, form.offsets()
    place = np.array([[1 / across, 0, -left / across], [0, 1 / down, -top / down]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return _within(cv2.warpAffine(chroma, place, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), form.depth)


def _within(plane: np.ndarray, depth: int) -> np.ndarray:
    """A plane, uint8 or uint16, without codes that `depth` bits do not hold."""
    return plane if depth in (8, 16) else np.minimum(plane, (1 << depth) - 1)


def _reduced(plane: np.ndarray, form: YuvFormat) -> np.ndarray:
    """A plane with a sample for every pixel as a plane of chroma, of the same type."""
    if form.steps == (1, 1):
        return plane
    kernels = [
        _cubic((np.arange(-2 * step, 3 * step) - offset) / step)
        for step, offset in zip(form.steps, form.offsets(), strict=True)
    ]
    anchor = (2 * form.steps[0], 2 * form.steps[1])
    smooth = cv2.sepFilter2D(plane, -1, kernels[0], kernels[1], anchor=anchor, borderType=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(smooth[:: form.steps[1], :: form.steps[0]])


def _cubic(x: np.ndarray) -> np.ndarray:
    """The weights of Catmull and Rom's spline, summing to 1."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return np.asarray(weights / weights.sum())


def make_frame(
    image: np.ndarray,
    alpha: np.ndarray | None,
    pix_fmt: str,
    form: YuvFormat,
    source: tuple[np.ndarray, YuvPlanes] | None = None,
) -> av.VideoFrame:
    """A picture as a frame for an encoder.

    Args:
        image: RGB [H,W,3], uint8 or uint16.
        alpha: Opacity [H,W] of the same type; opaque if None.
        pix_fmt: FFmpeg's name of the encoder's pixel format.
        form: What the planes of that format mean, if it has YCbCr ones.
        source: See `make_planes`.
    """
    pixels = av.VideoFormat(pix_fmt)
    height, width = image.shape[:2]
    depth = depth_of(pixels)
    top, code_top = 255 if image.dtype == np.uint8 else 65535, (1 << depth) - 1
    opacity: list[np.ndarray] = []
    if has_alpha(pixels):
        opacity = [np.full((height, width), top, image.dtype) if alpha is None else alpha]
    if pixels.is_rgb:
        frame = av.VideoFrame(width, height, _packed_rgb(depth, has_alpha(pixels)))
        packed_top = (1 << depth_of(frame.format)) - 1
        _fill(frame, [rescaled(np.dstack([image, *opacity]), top, packed_top).reshape(height, -1)])
        frame.colorspace, frame.color_range = 0, FULL
    else:
        frame = av.VideoFrame(width, height, _planar(pixels))
        _fill(frame, [*make_planes(image, form, source), *(rescaled(plane, top, code_top) for plane in opacity)])
        frame.colorspace, frame.color_range = form.matrix, FULL if form.full else LIMITED
    return frame if frame.format.name == pix_fmt else _resampled(frame, pix_fmt, width, height)


def make_planes(
    image: np.ndarray, form: YuvFormat, source: tuple[np.ndarray, YuvPlanes] | None = None
) -> list[np.ndarray]:
    """A picture as planes of YCbCr.

    Args:
        image: RGB [H,W,3], uint8 or uint16.
        form: What the planes mean.
        source: A picture like `image` and the planes it was made from: if they are like the result's, what `image`
            differs by is added to them, so that planes of what is unchanged stay exactly as they were.

    Returns:
        Y, Cb, Cr, uint8 or uint16.
    """
    if source is not None and source[1].format == form:
        return _changed(source[1].planes, source[0], image, form)
    yuv = rgb_to_yuv(image, form.depth, form.matrix, full=form.full)
    yuv[1:] = [_reduced(plane, form) for plane in yuv[1:]]
    return [_within(plane, form.depth) for plane in yuv]


def _changed(planes: list[np.ndarray], old: np.ndarray, new: np.ndarray, form: YuvFormat) -> list[np.ndarray]:
    """The planes that `old` was made from, changed by what `new` differs from it; both RGB of one type."""
    top = 255 if new.dtype == np.uint8 else 65535
    matrix = _to_yuv(form.matrix, form.full, form.depth, top)[:, :3]
    change = cv2.split(cv2.transform(cv2.subtract(new, old, dtype=cv2.CV_32F), matrix))
    kind = cv2.CV_8U if form.depth == 8 else cv2.CV_16U
    changes = [change[0], *(_reduced(plane, form) for plane in change[1:])]
    sums = [cv2.add(plane, by, dtype=kind) for plane, by in zip(planes, changes, strict=True)]
    return [_within(plane, form.depth) for plane in sums]


def _fill(frame: av.VideoFrame, planes: list[np.ndarray]) -> None:
    for target, plane in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(memoryview(target), plane.dtype).reshape(target.height, -1)
        rows[:, : plane.shape[1]] = plane


def _resampled(frame: av.VideoFrame, pix_fmt: str, width: int, height: int) -> av.VideoFrame:
    """swscale only moves planes here, and scales frames of another size; the arithmetic of colour is above.

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
