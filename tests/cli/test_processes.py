"""The commands as programs: in a process of their own they say and make what they do in the tests' process."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.breadth import everyday
from helpers.command_line import onnxdream, onnxdream_process
from helpers.paths import CLIP, DATA

ROCKET = DATA / "rocket.jpg"
LITTLE = ("--size", 64, "--steps", 1)


@pytest.mark.parametrize(
    "arguments",
    everyday(
        [
            pytest.param(arguments, id=str(arguments[0]))
            for arguments in (
                ("image", ROCKET, *LITTLE, "--octaves", 9, "-q"),
                ("models",),
                ("layers", "squeezenet1_1", "--json"),
                ("image", "missing.png"),
                ("activations", ROCKET, "-l", "fire3", "-o", "a.png"),
                ("visualize", "squeezenet1_1", "-l", "fire3", "--channels", 1, *LITTLE, "-o", "v.png", "--quiet"),
                ("video", CLIP, "--octaves", 1, "--end", 0.04, *LITTLE, "-o", "v.mkv", "-q"),
                ("export", "squeezenet1_1", "-l", "fire2", "-o", "e.onnx", "-q"),
            )
        ],
        3,
    ),
)
def test_as_a_program(arguments: tuple[object, ...], tmp_path: Path) -> None:
    results = []
    for run in (onnxdream, onnxdream_process):
        folder = tmp_path / run.__name__
        folder.mkdir()
        done = run(*arguments, folder=folder)
        made = {path.name: path.read_bytes() for path in folder.iterdir()}
        results.append((done.returncode, done.stdout, done.stderr, made))
    assert results[0] == results[1]
