"""Ctrl-C ends every command with exit code 130 and one line, and leaves nothing half done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.breadth import everyday
from helpers.paths import CLIP, DATA

# A real signal, when the command opens the network's file.
INTERRUPTED = """
import signal, sys

def interrupt(event, arguments):
    if event == "open" and str(arguments[0]).endswith("squeezenet1_1.onnx"):
        signal.raise_signal(signal.SIGINT)

sys.addaudithook(interrupt)
from onnxdream.cli.app import main
main()
"""
ROCKET = str(DATA / "rocket.jpg")


@pytest.mark.parametrize(
    "arguments",
    everyday(
        [
            ["image", ROCKET, "-o", "a.png"],
            ["image", ROCKET, "-o", "a.gif", "--frames", "3"],
            ["video", str(CLIP), "-o", "a.mp4", "-m", "squeezenet1_1"],
            ["live", str(CLIP), "--headless", "-o", "a.mp4", "-m", "squeezenet1_1"],
            ["compare", str(CLIP), str(CLIP), "-m", "squeezenet1_1", "--plot", "a.png"],
            ["export", "squeezenet1_1", "-o", "a.onnx"],
            ["activations", ROCKET, "-o", "a.png"],
            ["visualize", "squeezenet1_1", "-o", "a.png"],
            ["atlas", "squeezenet1_1", "-o", "a"],
            ["layers", "squeezenet1_1"],
            ["bench", "-m", "squeezenet1_1"],
        ],
        3,
    ),
    ids=lambda arguments: arguments[0],
)
def test_every_command(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *arguments], cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())
