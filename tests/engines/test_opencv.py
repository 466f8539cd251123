"""OpenCV's own engine, the only one where ONNX Runtime is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.command_line import onnxdream
from helpers.engines import both
from helpers.paths import DATA, ROOT
from onnxdream.errors import BackendError
from onnxdream.images import read_picture

pytestmark = pytest.mark.skipif(not hasattr(cv2.dnn, "ENGINE_NEW"), reason="this OpenCV has no engine that can dream")


def test_a_guide_is_looked_at_with_the_same_engine(tmp_path: Path) -> None:
    done = onnxdream(
        "image", DATA / "rocket.jpg", "--guide", DATA / "rocket.jpg", "--size", "160", "--steps", "2", "--octaves", "2",
        "--backend", "opencv", "--json", "-o", "out.png", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["provider"] == "OpenCV"
    assert record["objective_after"] > record["objective_before"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "magic"], "unknown backend 'magic'; backends are auto, onnxruntime, opencv, openvino"),
        (["--backend", "opencv", "--device", "cuda"], "the opencv backend runs on the CPU; it has no device 'cuda'"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = onnxdream("image", DATA / "rocket.jpg", "-o", "out.png", *arguments, folder=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (2, f"error: {message}")


def test_an_opencv_without_the_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2.dnn, "ENGINE_NEW")
    with pytest.raises(BackendError, match=r"OpenCV 5.* has no engine that can dream; install it with"):
        both("squeezenet1_1", "opencv")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has everything installed here but ONNX Runtime."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    scheme = {"base": str(folder), "platbase": str(folder)}
    target = Path(sysconfig.get_path("purelib", "venv", scheme))
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith("onnxruntime"):
            (target / package.name).symlink_to(package)
    return Path(sysconfig.get_path("scripts", "venv", scheme)) / Path(sys.executable).name


def run(bare: Path, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([bare, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True)


def test_without_onnx_runtime_opencv_dreams_by_itself(bare: Path, tmp_path: Path) -> None:
    assert run(bare, "-c", "import onnxruntime", folder=tmp_path).returncode == 1
    command = ("-m", "onnxdream.cli.app", "image", DATA / "rocket.jpg", "--size", "240", "-o", "out.png")
    done = run(bare, *command, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: onnxruntime is not installed; OpenCV's engine dreams instead" in done.stderr
    record = json.loads(done.stdout)
    assert record["provider"] == "OpenCV"
    assert record["objective_after"] > 3 * record["objective_before"]
    before, after = (read_picture(p).rgb for p in (DATA / "rocket.jpg", tmp_path / "out.png"))
    small = cv2.resize(before.astype(np.float32), after.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(after - small).mean() > 4
    for wish in ("--backend=onnxruntime", "--device=cpu"):
        refused = run(bare, *command, "--overwrite", wish, folder=tmp_path)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert "pip install onnxdream[cpu]" in refused.stderr
    found = json.loads(run(bare, "-m", "onnxdream.cli.app", "info", "--json", folder=tmp_path).stdout)["devices"]
    assert found["opencv"] == "OpenCV"
    assert "cpu" not in found


def test_without_onnx_runtime_a_capture_loop_dreams(bare: Path, tmp_path: Path) -> None:
    code = (
        "import cv2, onnxdream\n"
        f"capture = cv2.VideoCapture({str(DATA / 'clip.mp4')!r})\n"
        "dreamer = onnxdream.create_video_dreamer(layer='fire5', octaves=2, steps=2)\n"
        "frames = [cv2.resize(capture.read()[1], (160, 90)) for _ in range(3)]\n"
        "print([float(cv2.absdiff(dreamer.apply(f), f).mean()) > 1 for f in frames], dreamer.provider)"
    )
    done = run(bare, "-c", code, folder=tmp_path)
    assert done.stdout.strip() == "[True, True, True] OpenCV", done.stderr
