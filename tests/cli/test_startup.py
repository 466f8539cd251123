"""What starting up loads: nothing that the command at hand does not need. `-X importtime` lists it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"numpy", "cv2", "onnx", "onnx_ir", "onnxruntime", "av", "PIL", "imageio", "pooch", "requests", "ray"}


def loaded(*arguments: str) -> set[str]:
    """The top-level packages that this start of Python imports."""
    ran = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 10
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_importing_the_package_loads_nothing_heavy() -> None:
    found = loaded("-c", "import onnxdream")
    assert "onnxdream" in found
    assert not found & (HEAVY | {"typer", "rich", "pydantic", "json", "asyncio"})


@pytest.mark.parametrize("arguments", [["--help"], ["image", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    found = loaded("-m", "onnxdream.cli.app", *arguments)
    assert "typer" in found
    assert not found & HEAVY


@pytest.mark.parametrize("arguments", [["models"], ["info"]], ids=" ".join)
def test_lists_load_no_graph_library(arguments: list[str]) -> None:
    assert "onnx_ir" not in loaded("-m", "onnxdream.cli.app", *arguments)


def test_a_picture_needs_no_video_library() -> None:
    found = loaded("-c", "import onnxdream.picture_files, onnxdream.settings")
    assert "numpy" in found
    assert not found & {"av", "pooch", "requests", "onnx_ir", "sympy"}
