from __future__ import annotations

import pytest

from helpers.films import frames_of
from helpers.paths import CLIP
from onnxdream.video.io.open import VideoFrame


@pytest.fixture(scope="session")
def clip_frames() -> list[VideoFrame]:
    return frames_of(CLIP)
