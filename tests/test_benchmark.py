"""`onnxdream bench`: what it counts and that it measures what it says. How fast is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.command_line import onnxdream
from onnxdream import objectives
from onnxdream.benchmark import convolution_operations
from onnxdream.dream.dreamer import Dreamer
from onnxdream.networks.model import Model


def test_the_operations_of_convolutions(squeezenet: Model) -> None:
    """conv1 by hand: 64 kernels of 3x3x3 with stride 2, forward and, from the same products, backward."""
    height, width = 101, 141
    outputs = ((height - 3) // 2 + 1) * ((width - 3) // 2 + 1) * 64
    once = 2 * outputs * 27
    pixels = height * width * 3
    preprocessing = 2 * 2 * pixels * 3
    counted = convolution_operations(Dreamer(squeezenet, objectives.l2("conv1"), device="cpu"), (height, width))
    forward_and_back = counted - preprocessing
    # The gradient of a strided convolution is computed in phases of the stride, whose kernels are padded to one size.
    assert 2 * once <= forward_and_back <= 4 * once


def test_from_the_command_line(tmp_path: Path) -> None:
    done = onnxdream("bench", "-l", "fire3", "--sizes", "360p", "--seconds", 0.1, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["provider"] == "CPUExecutionProvider"
    (row,) = record["sizes"]
    assert (row["width"], row["height"]) == (640, 360)
    assert row["steps_per_second"] > row["video_fps"] > 0
    assert 0 < row["convolutions_share"] < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "4k"], "unknown size '4k'; sizes are 360p, 720p, 1080p"),
        (["--seconds", "0"], "seconds is 0.0; it must be above 0"),
    ],
)
def test_bad_requests(options: list[str], message: str, tmp_path: Path) -> None:
    done = onnxdream("bench", "--quiet", *options, folder=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (2, f"error: {message}")
