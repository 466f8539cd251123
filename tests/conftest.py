from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.register_assert_rewrite("helpers")
sys.path.insert(0, str(Path(__file__).parent.parent))  # tools/ is not installed

from helpers.jobs import new_look  # noqa: E402
from helpers.paths import DATA  # noqa: E402
from onnxdream.dream.dreamer import Dreamer  # noqa: E402
from onnxdream.engines.base import limit_threads  # noqa: E402
from onnxdream.images import read_picture  # noqa: E402
from onnxdream.networks.model import Model, load_model  # noqa: E402
from onnxdream.objectives import l2  # noqa: E402

# Where a shell has started the tests in the background they ignore interrupts, and so would the programs they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # there are as many as cores; more threads in each would wait, and busily
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's
    limit_threads(1)
    cv2.setNumThreads(1)


@pytest.fixture(scope="session")
def squeezenet() -> Model:
    return load_model("squeezenet1_1")


@pytest.fixture(scope="session")
def efficientnet() -> Model:
    return load_model("efficientnet_lite0")


@pytest.fixture(scope="session")
def look(squeezenet: Model) -> Dreamer:
    """What the films of the tests are dreamed with."""
    return new_look(squeezenet)


@pytest.fixture(scope="session")
def nothing(squeezenet: Model) -> Dreamer:
    """Dreams that change no pixel: what comes out is what came in."""
    return Dreamer(squeezenet, l2("fire2"), octaves=1, steps=1, step_size=0, jitter=0)


@pytest.fixture(scope="session")
def rocket() -> np.ndarray:
    """A real photograph, uint8 [427,640,3] RGB."""
    return np.rint(read_picture(DATA / "rocket.jpg").rgb).astype(np.uint8)
