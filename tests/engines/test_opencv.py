"""Dreaming with OpenCV's own engine: the same dream, and the only engine where ONNX Runtime is not installed."""

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

from helpers import engines
from helpers.breadth import everyday
from helpers.command_line import onnxdream
from helpers.engines import LAYERS, both, check_batches_and_masks
from helpers.paths import DATA, ROOT
from onnxdream.errors import BackendError
from onnxdream.images import read_picture, to_batch

pytestmark = pytest.mark.skipif(not hasattr(cv2.dnn, "ENGINE_NEW"), reason="this OpenCV has no engine that can dream")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return engines.picture()


@pytest.mark.parametrize("name", everyday(LAYERS, 2))
def test_a_whole_dream_is_onnx_runtimes(name: str, picture: np.ndarray) -> None:
    """Within the tolerance that the README states.

    Engines round differently, and each step multiplies what differs. A dream of a step an octave is the same picture;
    one of 30 steps has drifted in detail, as two spellings of one graph on ONNX Runtime do, and reaches the same
    objective.
    """
    theirs, ours = (d.dream(picture) for d in both(name, "opencv", octaves=3, steps=1, smooth=0.5))
    assert np.abs(theirs.exact - picture).mean() > 1
    assert np.abs(ours.exact - theirs.exact).mean() < 0.1
    theirs, ours = (d.dream(picture) for d in both(name, "opencv", octaves=3, steps=10, smooth=0.5))
    assert ours.objective_before == pytest.approx(theirs.objective_before, rel=1e-3)
    assert ours.objective_after == pytest.approx(theirs.objective_after, rel=0.05)
    assert np.abs(ours.exact - theirs.exact).mean() < np.abs(theirs.exact - picture).mean()
    assert (theirs.provider, ours.provider) == ("CPUExecutionProvider", "OpenCV")


def test_batches_masks_and_tiles(picture: np.ndarray) -> None:
    check_batches_and_masks(*both("squeezenet1_1", "opencv", octaves=1, steps=2))
    theirs, ours = both("squeezenet1_1", "opencv", octaves=1, steps=1, max_memory=64 << 20)
    big = cv2.resize(picture, (640, 480), interpolation=cv2.INTER_CUBIC)
    tiled = ours.dream(big)
    assert np.abs(tiled.exact - theirs.dream(big).exact).mean() < 0.1
    assert tiled.objective_after > tiled.objective_before


def test_steps_do_not_share_memory(picture: np.ndarray) -> None:
    seen: list[np.ndarray] = []
    _, ours = both("squeezenet1_1", "opencv", octaves=1, steps=3)
    last, _, _ = ours.ascend(to_batch(picture), on_step=lambda p: seen.append(p.picture()))
    np.testing.assert_array_equal(seen[-1], np.rint(last).astype(np.uint8).transpose(0, 2, 3, 1))
    assert all(np.abs(a.astype(int) - b).mean() > 0.5 for a, b in zip(seen[1:], seen[:-1], strict=True))


def test_a_guide_is_looked_at_with_the_same_engine(picture: np.ndarray, tmp_path: Path) -> None:
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
        refused = run(bare, *command, wish, folder=tmp_path)
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
