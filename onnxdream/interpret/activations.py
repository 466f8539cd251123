"""What a layer answers to a picture: its activation as arrays."""

from __future__ import annotations

import math

import numpy as np

from ..dream.dreamer import features
from ..networks.model import Model, load_model


def activations(
    model: Model | str, picture: np.ndarray, layer: str, *, longest: int = 384, device: str = "auto"
) -> np.ndarray:
    """The activation of `layer` on `picture` [H,W,3] RGB in 0..255: float32 [C,h,w], or [C] of a layer without places.

    The picture's longer side is brought down to `longest` pixels first, or all of it to the only size the layer takes.
    A transformer's tokens come as the grid [C,g,g] they were cut from, where they are one (with a class token or
    without), else as [C,1,tokens].
    Raises LayerError for a layer that is not there and PictureError for what is no picture.
    """
    loaded = load_model(model) if isinstance(model, str) else model
    activation = features(loaded, loaded.layer(layer).name, picture, device=device, longest=longest)[0]
    return activation if activation.ndim != 2 else _tokens_to_grid(activation)


def mean_activation(activation: np.ndarray) -> np.ndarray:
    """How strongly each channel of [C,...] answers: its mean, [C]."""
    return np.asarray(activation.reshape(activation.shape[0], -1).mean(1))


def _tokens_to_grid(tokens: np.ndarray) -> np.ndarray:
    count, channels = tokens.shape
    for extra in (0, 1):
        side = math.isqrt(count - extra)
        if side > 1 and side * side == count - extra:
            return tokens[extra:].T.reshape(channels, side, side)
    return tokens.T[:, None]
