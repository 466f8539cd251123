"""A picture of how far a job is."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from ...images import write_whole

_LONGEST = 480  # pixels
_EACH = 1.0  # seconds


class Preview:
    """Keeps the newest frame in a JPEG, made anew about once a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shown = 0.0

    def show(self, image: np.ndarray) -> None:
        """Take a dreamed frame, BGR uint8 or uint16 [H,W,3]. Raises OutputError."""
        now = time.perf_counter()
        if now - self._shown < _EACH:
            return
        self._shown = now
        scale = min(1.0, _LONGEST / max(image.shape[:2]))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        pixels = cv2.convertScaleAbs(small, alpha=255 / np.iinfo(image.dtype).max)
        write_whole(self.path, lambda to: np.asarray(cv2.imencode(".jpg", pixels)[1]).tofile(to))
