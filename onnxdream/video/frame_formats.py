"""Frames as OpenCV programs have them: BGR, BGRA or grey, of several types, views included."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from ..errors import PictureError

# The value of white for each type; floating point as cv2.imshow takes it.
WHITE = {"uint8": 255.0, "uint16": 65535.0, "float16": 1.0, "float32": 1.0, "float64": 1.0}


def as_bgr(frame: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Convert a frame to BGR.

    Args:
        frame: [H,W] or [H,W,1] grey, [H,W,3] BGR or [H,W,4] BGRA, of uint8, uint16, or floating point in 0..1. The last
            may overshoot that range by half and is clipped.

    Returns:
        The frame as BGR [H,W,3], uint8 or float32 in 0..255, and the function that converts such a picture into the
        frame's own format; it keeps the frame's opacity.

    Raises:
        PictureError: It is no such frame.
    """
    if not isinstance(frame, np.ndarray):
        raise PictureError(f"a frame is a NumPy array, not {type(frame).__name__}; has the capture ended?")
    channels = 1 if frame.ndim == 2 else frame.shape[-1]
    if frame.ndim not in (2, 3) or channels not in (1, 3, 4) or frame.dtype.name not in WHITE or not frame.size:
        known = ", ".join(WHITE)
        raise PictureError(
            f"a frame of {frame.dtype.name} {list(frame.shape)} cannot be dreamed; "
            f"it must be grey, BGR or BGRA of {known}"
        )
    if frame.dtype.kind == "f":
        low, high = float(frame.min()), float(frame.max())  # NaN if there is one
        if not -0.5 <= low <= high <= 1.5:
            raise PictureError(
                f"a frame of {frame.dtype.name} must be of numbers in 0..1; this one has {low:g} to {high:g}"
            )
    values = np.ascontiguousarray(frame)
    if frame.dtype != np.uint8:
        values = values.astype(np.float32) * np.float32(255 / WHITE[frame.dtype.name])
    if channels != 3:
        values = cv2.cvtColor(values, cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR)

    def restore(bgr: np.ndarray) -> np.ndarray:
        if channels == 1:
            bgr = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY).reshape(frame.shape)
        if frame.dtype != np.uint8:
            bgr = bgr * np.float32(WHITE[frame.dtype.name] / 255)
            bgr = (np.rint(bgr) if frame.dtype == np.uint16 else bgr).astype(frame.dtype)
        return np.dstack([bgr, frame[..., 3]]) if channels == 4 else bgr

    return values, restore


def as_weight(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Convert a mask to weights.

    Args:
        mask: [H,W] or [H,W,1], bool, uint8, uint16, or floating point in 0..1.
        size: The (height, width) that it must have.

    Returns:
        float32 [H,W,1] in 0..1.

    Raises:
        PictureError: It has another size or type, or contains NaN.
    """
    if not isinstance(mask, np.ndarray):
        raise PictureError(f"a mask is a NumPy array, not {type(mask).__name__}")
    white = {"bool": 1.0, **WHITE}.get(mask.dtype.name)
    if mask.shape[:2] != size or mask.size != size[0] * size[1] or white is None:
        raise PictureError(
            f"a mask of {mask.dtype.name} {list(mask.shape)} does not fit a frame of {list(size)}; "
            "it must be bool, uint8 or floating point of that size"
        )
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        raise PictureError(f"a mask of {mask.dtype.name} must be of numbers in 0..1; this one has NaN")
    return np.asarray(np.clip(mask.reshape(*size, 1).astype(np.float32) / np.float32(white), 0, 1))


def add(frame: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Add a residual to a frame.

    Args:
        frame: [H,W,3], uint8 or float32 in 0..255.
        residual: Float32 or int16 [H,W,3].

    Returns:
        The sum, clipped to 0..255, of the frame's type.
    """
    if frame.dtype == np.uint8:
        return cv2.add(frame, residual, dtype=cv2.CV_8U)  # rounds and saturates
    total = cv2.add(frame, residual)
    return np.clip(total, 0, 255, out=total)
