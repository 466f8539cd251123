"""What the tests of engines have in common."""

from __future__ import annotations

import cv2
import numpy as np

from helpers.paths import DATA
from onnxdream import objectives
from onnxdream.dream.dreamer import Dreamer
from onnxdream.images import read_picture
from onnxdream.networks.model import load_model

LAYERS = {"squeezenet1_1": "fire5", "efficientnet_lite0": "block5"}


def picture() -> np.ndarray:
    """Float and small, so that no two neighbours are equal and no maximum is a tie."""
    return cv2.resize(read_picture(DATA / "rocket.jpg").rgb, (240, 160), interpolation=cv2.INTER_AREA)


def both(name: str, device: str, **options) -> tuple[Dreamer, Dreamer]:
    """Dreamers alike on ONNX Runtime's CPU and on the engine called `device`."""
    model = load_model(name)
    theirs, ours = (Dreamer(model, objectives.l2(LAYERS[name]), device=d, **options) for d in ("cpu", device))
    return theirs, ours
