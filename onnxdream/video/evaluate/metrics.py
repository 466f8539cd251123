"""Metrics of a dreamed video: how steady it is, and how strong, colourful and bright its dream is.

All pictures are RGB float32 [H,W,3] in 0..255; the flow and its mask always come from the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import cv2
import numpy as np

from ..flow import CutDetector, estimator, grey, visible, warp


@dataclass(frozen=True)
class Metrics:
    """The metrics of one dreamed video against its source.

    Attributes:
        frames: How many frames were compared.
        warp_error: The warp error of the dream, in squared RGB 0..1 (see `compare`).
        source_warp_error: The source's own, caused by noise, water and the like.
        flicker: Mean absolute change per frame, in 0..255, where the source stands still, beyond the source's own.
        strength: Mean of the objective.
        color_drift: CIE ΔE between the mean colours of dream minus source in the first and the last tenth.
        brightness_drift: The same in L* alone, signed: positive if the dream grows brighter.
    """

    frames: int
    warp_error: float
    source_warp_error: float
    flicker: float
    strength: float
    color_drift: float
    brightness_drift: float

    @property
    def excess(self) -> float:
        """The warp error that the dream adds to the source's own."""
        return self.warp_error - self.source_warp_error

    def as_dict(self) -> dict[str, float]:
        """Every metric by name."""
        return {**asdict(self), "excess": self.excess}


def compare(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    measure: Callable[[np.ndarray], float] | None = None,
    *,
    flow: str = "dis-medium",
) -> Metrics:
    """Compare a dream with its source.

    The warp error of two consecutive frames is Σ M (warp(O_{t+1}, F_{t->t+1}) - O_t)² / Σ M in RGB 0..1, with Σ M over
    the channels too (Lai et al. 2018, "Learning Blind Video Temporal Consistency", eq. 12). The metric is its mean over
    all pairs but those across a cut.

    Args:
        pairs: (source, dream) for each frame, RGB float32 [H,W,3] in 0..255.
        measure: Gives the objective of a dreamed frame; without it the strength is NaN.
        flow: The optical flow, one of `flow.METHODS`.

    Returns:
        The metrics; NaN where no frame allows one.
    """
    estimate, cut = estimator(flow), CutDetector()
    errors: list[tuple[float, float]] = []
    flickers: list[float] = []
    strengths: list[float] = []
    colors: list[np.ndarray] = []
    last: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    for source, dream in pairs:
        light = grey(source)
        colors.append(_mean_lab(dream) - _mean_lab(source))
        if measure is not None:
            strengths.append(measure(dream))
        is_cut = cut(cv2.convertScaleAbs(source))
        if last is not None and not is_cut:
            before, dreamed_before, light_before = last
            forward, backward = estimate(light_before, light), estimate(light, light_before)
            trusted = visible(forward, backward) > 0
            if trusted.any():
                dreamed = _warp_error(dreamed_before, dream, forward, trusted)
                errors.append((dreamed, _warp_error(before, source, forward, trusted)))
            still = np.abs(source - before).max(2) < 3
            if still.mean() > 0.01:
                own = np.abs(source - before)[still].mean()
                flickers.append(float(np.abs(dream - dreamed_before)[still].mean() - own))
        last = (source, dream, light)
    tenth = max(1, len(colors) // 10)
    drift = np.mean(colors[-tenth:], 0) - np.mean(colors[:tenth], 0) if colors else np.zeros(3)
    error, own_error = np.mean(errors, 0) if errors else (np.nan, np.nan)
    return Metrics(
        frames=len(colors),
        warp_error=float(error),
        source_warp_error=float(own_error),
        flicker=float(np.mean(flickers)) if flickers else float("nan"),
        strength=float(np.mean(strengths)) if strengths else float("nan"),
        color_drift=float(np.linalg.norm(drift)),
        brightness_drift=float(drift[0]),
    )


def _warp_error(first: np.ndarray, second: np.ndarray, forward: np.ndarray, trusted: np.ndarray) -> float:
    difference = (warp(second, forward) - first)[trusted] / 255
    return float(np.mean(np.square(difference)))


def _mean_lab(picture: np.ndarray) -> np.ndarray:
    return np.asarray(np.mean(cv2.cvtColor(np.ascontiguousarray(picture) / 255, cv2.COLOR_RGB2LAB), axis=(0, 1)))
