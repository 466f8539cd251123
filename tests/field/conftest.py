from __future__ import annotations

import pytest

from helpers.jobs import new_look
from onnxdream.dream.dreamer import Dreamer
from onnxdream.networks.model import Model
from onnxdream.objectives import l2


@pytest.fixture(scope="session")
def look(squeezenet: Model) -> Dreamer:
    return new_look(squeezenet)


@pytest.fixture(scope="session")
def nothing(squeezenet: Model) -> Dreamer:
    """Dreams that change no pixel: what comes out is what came in."""
    return Dreamer(squeezenet, l2("fire2"), octaves=1, steps=1, step_size=0, jitter=0)
