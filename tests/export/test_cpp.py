"""The C++ example of docs/cpp: compiled, and run on a file that was exported."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers.paths import DATA, ROOT
from onnxdream import objectives
from onnxdream.dream.step_graph import build_objective_model
from onnxdream.export import export_model
from onnxdream.networks.model import Model

HEADER = "onnxruntime_cxx_api.h"


def headers() -> Path | None:
    """The folder of ONNX Runtime's headers: what ONNXRUNTIME_INCLUDE names, or where Debian's package puts them."""
    places = [os.environ.get("ONNXRUNTIME_INCLUDE", ""), "build/onnxruntime/usr/include/onnxruntime",
              "/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/local/include"]  # fmt: skip
    return next((ROOT / p for p in places if p and (ROOT / p / HEADER).is_file()), None)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built against the library of the Python package."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"), None)
    include = headers()
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    if include is None or library is None:
        pytest.skip(f"{HEADER} or the library is not here; install libonnxruntime-dev or set ONNXRUNTIME_INCLUDE")
    to = tmp_path_factory.mktemp("cpp") / "dream"
    source = ROOT / "docs" / "cpp" / "dream.cpp"
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", source, f"-isystem{include}",
               library, f"-Wl,-rpath,{library.parent}", "-o", to]  # fmt: skip
    built = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")
    # The library asks to be found by its short name.
    soname = to.parent / "libonnxruntime.so.1"
    if library.name != soname.name:
        soname.symlink_to(library)
    return to


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(program.parent)}
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, env=environment)


def test_it_dreams(program: Path, squeezenet: Model, tmp_path: Path) -> None:
    goal = objectives.l2("fire5")
    export_model(squeezenet, goal, tmp_path / "step.onnx")
    photo = Image.open(DATA / "rocket.jpg").convert("RGB").resize((320, 213))
    photo.save(tmp_path / "in.ppm")
    done = run(program, tmp_path / "step.onnx", tmp_path / "in.ppm", tmp_path / "out.ppm", 12)
    assert (done.returncode, done.stderr) == (0, "")
    responses = [float(line) for line in done.stdout.split()]
    assert len(responses) == 12
    assert responses[-1] > 3 * responses[0]
    dreamed = cv2.imread(str(tmp_path / "out.ppm"))[..., ::-1]
    assert 3 < np.abs(dreamed - np.asarray(photo, float)).mean() < 40
    import onnxruntime

    measure = onnxruntime.InferenceSession(build_objective_model(squeezenet, goal).SerializeToString())
    image = np.ascontiguousarray(dreamed.transpose(2, 0, 1)[None], np.float32)
    assert measure.run(None, {"image": image})[0][0] > 3 * responses[0]


def test_what_is_wrong_is_said(program: Path, tmp_path: Path) -> None:
    (tmp_path / "in.ppm").write_bytes(b"P5\n2 2\n255\n....")
    assert run(program).stderr == "error: usage: dream step.onnx in.ppm out.ppm [steps]\n"
    done = run(program, tmp_path / "none.onnx", tmp_path / "in.ppm", tmp_path / "out.ppm")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "out.ppm").exists()
