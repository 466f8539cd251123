"""Parametrizations of pictures in which gradient ascent works better than in pixels.

Each parametrization maps parameters to pictures, float32 [N,3,H,W] RGB in 0..255, and also returns the vector-Jacobian
product of that map:

    pictures, vjp = parametrization(parameters)
    gradient = vjp(d objective / d pictures)        # with respect to the parameters, exact

`start(rng)` draws the parameters of one picture; those of several are stacked along the first axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from scipy import fft

Vjp = Callable[[np.ndarray], np.ndarray]

# How the colours of natural pictures vary: the square root of their covariance, from lucid, scaled so that its longest
# column has length 1.
_COLOR = np.array([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]], np.float32)
COLOR = _COLOR / np.float32(np.linalg.norm(_COLOR, axis=0).max())


class Parametrization(Protocol):
    """A map from parameters to pictures of `size` (height, width); see the module's docstring."""

    size: tuple[int, int]

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the parameters, float32, of one picture to start from."""

    def encode(self, picture: np.ndarray) -> np.ndarray:
        """The parameters of `picture`, float32 [3,H,W] in 0..255, or of the nearest that can be expressed."""

    def __call__(self, parameters: np.ndarray) -> tuple[np.ndarray, Vjp]:
        """The pictures [N,3,H,W] in 0..255, and the function from their gradient to that of the parameters."""


class Pixel:
    """The pixels themselves, starting from noise around grey, as in the first visualisations (Erhan et al. 2009).

    Args:
        size: (height, width) in pixels.
        contrast: The standard deviation of the noise, of 255.
    """

    def __init__(self, size: tuple[int, int], contrast: float = 10.0) -> None:
        self.size, self.contrast = size, contrast

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Draw noise."""
        return rng.normal(0, self.contrast, (3, *self.size)).astype(np.float32)

    def encode(self, picture: np.ndarray) -> np.ndarray:
        """The parameters of `picture`."""
        return picture - np.float32(127.5)

    def __call__(self, parameters: np.ndarray) -> tuple[np.ndarray, Vjp]:
        """As `Parametrization`; clips `parameters` in place."""
        np.clip(parameters, -127.5, 127.5, out=parameters)
        return parameters + np.float32(127.5), lambda gradient: gradient


class Fourier:
    """Decorrelated in space and colour: a spectrum divided by frequency, decorrelated colours, and a sigmoid.

    Olah, Mordvintsev and Schubert 2017, "Feature Visualization"; the constants are lucid's. Parameters are float32
    [N,3,H,W//2+1,2], the real and imaginary parts.

    Args:
        size: (height, width) in pixels.
        deviation: The standard deviation of the parameters at the start.
        decay: The power of the frequency by which the spectrum is divided.
    """

    def __init__(self, size: tuple[int, int], deviation: float = 0.01, decay: float = 1.0) -> None:
        self.size, self.deviation = size, deviation
        height, width = size
        scale = np.sqrt(height * width) / np.maximum(frequencies(size), 1 / max(size)) ** decay
        self._scale = (scale / 4).astype(np.float32)

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Draw noise."""
        return rng.normal(0, self.deviation, (3, *self._scale.shape, 2)).astype(np.float32)

    def encode(self, picture: np.ndarray) -> np.ndarray:
        """The parameters of `picture`."""
        spectrum = fft.rfft2(_decorrelated(picture)) / self._scale
        return np.stack([spectrum.real, spectrum.imag], -1).astype(np.float32)

    def __call__(self, parameters: np.ndarray) -> tuple[np.ndarray, Vjp]:
        """As `Parametrization`."""
        spectrum = parameters.view(np.complex64)[..., 0] * self._scale
        pictures, vjp_colors = _colored(fft.irfft2(spectrum, s=self.size))

        def vjp(gradient: np.ndarray) -> np.ndarray:
            back = _irfft2_transposed(vjp_colors(gradient)) * self._scale
            return np.ascontiguousarray(back[..., None]).view(np.float32)

        return pictures, vjp


class MaCo:
    """The spectrum's magnitude is fixed to that of natural pictures; only its phase is optimised.

    Fel et al. 2023, "Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained Optimization".
    Parameters are float32 [N,3,H,W//2+1], the phase in radians.

    Args:
        size: (height, width) in pixels.
        magnitude: Float [3,H,W//2+1] in decorrelated colours, see `natural_magnitude`. Default: about 1/frequency.
        contrast: The standard deviation of the decorrelated colours, all three together, before the sigmoid.
    """

    def __init__(self, size: tuple[int, int], magnitude: np.ndarray | None = None, contrast: float = 2.5) -> None:
        self.size = size
        if magnitude is None:
            fall = np.maximum(frequencies(size), 1 / max(size)) ** -1.2  # a little steeper than 1/f, as photographs are
            magnitude = np.repeat(fall[None], 3, 0)
        power = (magnitude.astype(np.float64) ** 2 * _multiplicity(size)).sum()
        power -= (magnitude[:, 0, 0].astype(np.float64) ** 2).sum()
        # By Parseval the three colours together deviate from their mean by `contrast`.
        self._magnitude = (magnitude * (contrast * size[0] * size[1] / np.sqrt(power))).astype(np.float32)
        self._magnitude[:, 0, 0] = 0  # the mean is grey

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Draw noise."""
        phase: np.ndarray = rng.uniform(-np.pi, np.pi, self._magnitude.shape).astype(np.float32)
        return phase

    def encode(self, picture: np.ndarray) -> np.ndarray:
        """The parameters of `picture`."""
        phase: np.ndarray = np.angle(fft.rfft2(_decorrelated(picture))).astype(np.float32)
        return phase

    def __call__(self, parameters: np.ndarray) -> tuple[np.ndarray, Vjp]:
        """As `Parametrization`."""
        spectrum = np.empty(parameters.shape, np.complex64)
        np.multiply(self._magnitude, np.cos(parameters), out=spectrum.real)
        np.multiply(self._magnitude, np.sin(parameters), out=spectrum.imag)
        pictures, vjp_colors = _colored(fft.irfft2(spectrum, s=self.size))

        def vjp(gradient: np.ndarray) -> np.ndarray:
            back = _irfft2_transposed(vjp_colors(gradient))
            turned: np.ndarray = spectrum.real * back.imag - spectrum.imag * back.real  # Im(conj(S) dS)
            return turned

        return pictures, vjp


def frequencies(size: tuple[int, int]) -> np.ndarray:
    """The frequencies of a real picture's half spectrum, in cycles per pixel: [H,W//2+1]."""
    return np.asarray(np.hypot(fft.fftfreq(size[0])[:, None], fft.rfftfreq(size[1])[None]))


def natural_magnitude(pictures: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The mean magnitude of pictures' spectra, in decorrelated colours.

    Args:
        pictures: Each float32 [3,H,W] in 0..255; at least one.
        size: Their (height, width).

    Returns:
        Float64 [3,H,W//2+1].
    """
    window = np.outer(np.hanning(size[0]), np.hanning(size[1])).astype(
        np.float32
    )  # no edge where opposite borders meet
    spectra = [np.abs(fft.rfft2(_centred(_decorrelated(picture)) * window)) for picture in pictures]
    return np.asarray(np.mean(spectra, axis=0, dtype=np.float64))


def _centred(planes: np.ndarray) -> np.ndarray:
    return np.asarray(planes - planes.mean((1, 2), keepdims=True))


def _decorrelated(picture: np.ndarray) -> np.ndarray:
    """The inverse of `_colored` for one picture [3,H,W] in 0..255."""
    inside = np.clip(picture / np.float32(255), 0.01, 0.99)
    logits = np.log(inside / (1 - inside)).reshape(3, -1)
    return np.linalg.solve(COLOR, logits).astype(np.float32).reshape(picture.shape)


def _colored(planes: np.ndarray) -> tuple[np.ndarray, Vjp]:
    """Decorrelated planes [N,3,H,W] as pictures in 0..255, and the vector-Jacobian product of that map."""
    shape = planes.shape
    squashed = np.matmul(COLOR, planes.reshape(shape[0], 3, -1))
    np.negative(squashed, out=squashed)
    np.exp(squashed, out=squashed)
    squashed += 1
    np.divide(1, squashed, out=squashed)  # the sigmoid

    def vjp(gradient: np.ndarray) -> np.ndarray:
        slope = squashed * (1 - squashed)
        slope *= np.float32(255)
        slope *= gradient.reshape(slope.shape)
        return np.asarray(np.matmul(COLOR.T, slope).reshape(shape))

    return (squashed * np.float32(255)).reshape(shape), vjp


def _irfft2_transposed(gradient: np.ndarray) -> np.ndarray:
    """The gradient with respect to a half spectrum, d/dRe + i d/dIm, from that of its irfft2."""
    size = gradient.shape[-2:]
    return np.asarray(fft.rfft2(gradient) * (_multiplicity(size) / (size[0] * size[1])).astype(np.float32))


def _multiplicity(size: tuple[int, ...]) -> np.ndarray:
    """How often each column of a half spectrum [.,W//2+1] occurs in the full one."""
    columns = np.full(size[1] // 2 + 1, 2.0)
    columns[0] = 1
    if size[1] % 2 == 0:
        columns[-1] = 1
    return columns
