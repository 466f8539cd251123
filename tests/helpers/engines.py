"""What the tests of every engine beside ONNX Runtime have in common."""

from __future__ import annotations

import cv2
import numpy as np

from helpers.paths import DATA
from onnxdream import objectives
from onnxdream.dream.dreamer import Dreamer
from onnxdream.images import read_picture, to_batch
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


def check_batches_and_masks(theirs: Dreamer, ours: Dreamer) -> None:
    small = cv2.resize(picture(), (160, 112), interpolation=cv2.INTER_AREA)
    batch = np.concatenate([to_batch(small), to_batch(small[::-1].copy())])
    np.testing.assert_allclose(ours.ascend(batch)[0], theirs.ascend(batch)[0], atol=0.5)
    mask = np.zeros((112, 160), np.float32)
    mask[:, 80:] = 1
    masked = ours.ascend(to_batch(small), mask=mask)[0]
    np.testing.assert_array_equal(masked[..., :80], to_batch(small)[..., :80])
    np.testing.assert_allclose(masked, theirs.ascend(to_batch(small), mask=mask)[0], atol=0.5)
