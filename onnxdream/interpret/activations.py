"""A layer's activation on a picture, as an array."""

from __future__ import annotations

import math

import numpy as np

from ..dream.dreamer import features
from ..networks.model import Model, load_model


def activations(
    model: Model | str, picture: np.ndarray, layer: str, *, longest: int = 384, device: str = "auto"
) -> np.ndarray:
    """The activation of a layer on a picture.

    Args:
        model: A network, or its name or ONNX file, see `load_model`.
        picture: RGB [H,W,3] in 0..255.
        layer: The layer's name.
        longest: The picture is first reduced until its longer side has this many pixels. If the layer takes one size
            only, the picture is resized to that instead.
        device: The device to compute on.

    Returns:
        Float32 [C,h,w], or [C] for a layer that is not spatial. A transformer's tokens are arranged as the grid [C,g,g]
        of their patches, without the class token; tokens that form no square grid are returned as [C,1,tokens].

    Raises:
        LayerError: The network has no such layer.
        PictureError: The array is not a picture.
        NotFiniteError: A layer on the way gives NaN or infinity.
    """
    loaded = load_model(model) if isinstance(model, str) else model
    activation = features(loaded, loaded.layer(layer).name, picture, device=device, longest=longest)[0]
    return activation if activation.ndim != 2 else _tokens_to_grid(activation)


def mean_activation(activation: np.ndarray) -> np.ndarray:
    """The mean of each channel of an activation [C,...]: [C]."""
    return np.asarray(activation.reshape(activation.shape[0], -1).mean(1))


def _tokens_to_grid(tokens: np.ndarray) -> np.ndarray:
    count, channels = tokens.shape
    for extra in (0, 1):
        side = math.isqrt(count - extra)
        if side > 1 and side * side == count - extra:
            return tokens[extra:].T.reshape(channels, side, side)
    return tokens.T[:, None]
