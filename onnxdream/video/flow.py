"""Optical flow between frames: estimating it, warping with it, and telling where it cannot be trusted.

A flow [H,W,2] float32 holds (dx, dy) in pixels: pixel (x, y) of the first picture is found at (x + dx, y + dy) in the
second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import get_args

import cv2
import numpy as np

from ..errors import OptionError
from ..settings import Flow

Estimator = Callable[[np.ndarray, np.ndarray], np.ndarray]

_DIS = {
    "dis-ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "dis-fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "dis-medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
METHODS: tuple[str, ...] = get_args(Flow)
_DIS_LEAST = 32  # pixels a side; OpenCV 5 crashes on strips narrower than that


def estimator(method: str, *, rough: bool = False) -> Estimator:
    """Choose a way to estimate the flow.

    Args:
        method: "dis-ultrafast", "dis-fast" or "dis-medium" (dense inverse search, Kroeger et al. 2016), "farneback"
            (polynomial expansion, Farnebäck 2003), or "none" (no motion).
        rough: Whether to take half the time if there is a faster way. The flow is then good enough to tell what is
            occluded.

    Returns:
        The function (first, second) -> flow; pictures are grey uint8 [H,W], the flow is float32 [H,W,2].

    Raises:
        OptionError: There is no such method.
    """
    if method in _DIS:
        search = cv2.DISOpticalFlow.create(_DIS[method])
        if rough and method == "dis-medium":
            search.setPatchStride(5)
            search.setGradientDescentIterations(12)
            search.setVariationalRefinementIterations(2)

        def dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            flow = search.calc(_pad_to(_DIS_LEAST, first), _pad_to(_DIS_LEAST, second), None)  # type: ignore[call-overload]
            return np.ascontiguousarray(flow[: first.shape[0], : first.shape[1]])

        return dis
    if method == "farneback":
        return lambda first, second: cv2.calcOpticalFlowFarneback(
            first, second, np.zeros((*first.shape, 2), np.float32), 0.5, 4, 21, 3, 7, 1.5, 0
        )
    if method == "none":
        return lambda first, second: np.zeros((*first.shape, 2), np.float32)
    raise OptionError(f"unknown flow {method!r}; flows are {', '.join(METHODS)}")


def _pad_to(side: int, picture: np.ndarray) -> np.ndarray:
    """`picture` [H,W], its edge repeated below and to the right where it is smaller than `side`."""
    down, right = (max(0, side - length) for length in picture.shape)
    return cv2.copyMakeBorder(picture, 0, down, 0, right, cv2.BORDER_REPLICATE) if down or right else picture


def warp(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Move a picture along a flow.

    The interpolation is cubic, so that texture carried along for many frames does not blur away.

    Args:
        picture: The second picture, uint8 or float32 [H,W] or [H,W,C].
        flow: Float32 [H,W,2] from the first picture to the second.

    Returns:
        The second picture as the first sees it, of its shape and type. Where the flow leaves the picture, its edge is
        repeated.
    """
    height, width = flow.shape[:2]
    places = flow + _grid(height, width)
    return cv2.remap(picture, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload, no-any-return]


@functools.lru_cache(maxsize=4)
def _grid(height: int, width: int) -> np.ndarray:
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.dstack([columns, rows])


def visible(flow: np.ndarray, reverse: np.ndarray, *, spacing: int = 1) -> np.ndarray:
    """Tell where a flow can be trusted, as in Ruder et al. 2016.

    Not trusted are places that leave the frame; occlusions, |w + ŵ|² >= 0.01 (|w|² + |ŵ|²) + 0.5 with ŵ the reverse
    flow at the place that w points to (Sundaram et al. 2010, eq. 5); and motion boundaries,
    |∇u|² + |∇v|² > 0.01 |w|² + 0.002 (eq. 6).

    Args:
        flow: Float32 [H,W,2].
        reverse: The flow the other way, float32 [H,W,2].
        spacing: Pixels between the places that are examined.

    Returns:
        uint8 [H,W]: 255 where the flow can be trusted, 0 elsewhere.
    """
    full = flow.shape[1::-1]
    width, height = (-(-length // spacing) for length in full)
    flow, reverse = (cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in (flow, reverse))
    places = cv2.scaleAdd(flow, 1 / spacing, _grid(height, width))
    back = cv2.remap(reverse, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    square = _length2(flow)
    apart, limit = _length2(cv2.add(flow, back)), cv2.addWeighted(square, 0.01, _length2(back), 0.01, 0.5)
    occluded = cv2.compare(apart, limit, cv2.CMP_GE)
    across, down = (cv2.Sobel(flow, cv2.CV_32F, *axis, ksize=1, scale=0.5 / spacing) for axis in ((1, 0), (0, 1)))
    change, limit = cv2.add(_length2(across), _length2(down)), cv2.addWeighted(square, 0.01, square, 0, 0.002)
    boundary = cv2.compare(change, limit, cv2.CMP_GT)
    inside = cv2.inRange(places, (0.0, 0.0), (width - 1.0, height - 1.0))
    trusted = cv2.bitwise_and(inside, cv2.bitwise_not(cv2.bitwise_or(occluded, boundary)))
    return cv2.resize(trusted, full, interpolation=cv2.INTER_NEAREST)


def _length2(flow: np.ndarray) -> np.ndarray:
    square = cv2.multiply(flow, flow)
    return cv2.add(square[..., 0], square[..., 1])


def soften(mask: np.ndarray, radius: int = 2) -> np.ndarray:
    """Shrink a mask a little and blur it, so that no edge of it shows.

    Args:
        mask: Uint8 [H,W] in 0..255.
        radius: Of the blur, in pixels.

    Returns:
        float32 [H,W] in 0..1.
    """
    size = 2 * radius + 1
    shrunk = cv2.erode(mask, np.ones((3, 3), np.uint8))
    return cv2.GaussianBlur(shrunk.astype(np.float32) / 255, (size, size), 0)


def grey(frame: np.ndarray) -> np.ndarray:
    """The luminance, uint8 [H,W], of an RGB frame [H,W,3], uint8 or float32 in 0..255."""
    return cv2.cvtColor(cv2.convertScaleAbs(frame), cv2.COLOR_RGB2GRAY)


class CutDetector:
    """Detects scene cuts: the picture changes more than its motion and its recent changes explain.

    The change is the mean absolute difference of small pictures in hue, saturation and value, as in PySceneDetect's
    content detector, compared with that of the last few frames, as in its adaptive one.

    Args:
        threshold: The least change of a cut, in 0..255.
        ratio: The least change of a cut, as a multiple of the mean of the last few.
    """

    def __init__(self, threshold: float = 22.0, ratio: float = 2.2) -> None:
        self._threshold, self._ratio = threshold, ratio
        self._last: np.ndarray | None = None
        self._recent: list[float] = []

    def __call__(self, frame: np.ndarray) -> bool:
        """Whether `frame`, RGB uint8 [H,W,3], begins a new scene; the first frame does."""
        small = cv2.resize(frame, (64, 36), interpolation=cv2.INTER_AREA)
        hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV).astype(np.int16)
        last, self._last = self._last, hsv
        if last is None:
            return True
        hue = np.abs(hsv[..., 0] - last[..., 0])
        change = np.abs(hsv[..., 1:] - last[..., 1:]).mean(2) * 2 + np.minimum(hue, 180 - hue)
        score = float(change.mean() / 3)
        usual = float(np.mean(self._recent or [0.0]))
        cut = score > self._threshold and score > self._ratio * max(usual, 1.0)
        self._recent = [] if cut else [*self._recent[-3:], score]
        return cut

    def state(self) -> dict[str, np.ndarray]:
        """What it remembers, as arrays for `restored`."""
        last = np.zeros((0, 0, 3), np.int16) if self._last is None else self._last
        return {"cut_last": last, "cut_recent": np.array(self._recent, np.float64)}

    @classmethod
    def restored(cls, state: Mapping[str, np.ndarray]) -> CutDetector:
        """A detector that continues from a `state`."""
        detector = cls()
        detector._last = state["cut_last"] if state["cut_last"].size else None
        detector._recent = [float(v) for v in state["cut_recent"]]
        return detector
