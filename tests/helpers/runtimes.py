"""The runtimes that an exported step model should run on, behind one signature.

Each `open_*(proto)` loads the model and returns a function feeds -> outputs by name. A runtime that is not installed
skips the test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from helpers.float64 import run_float64
from helpers.paths import ROOT
from onnxdream.engines.select import select

WEB_VERSION = "1.30.0"

Feeds = Mapping[str, np.ndarray]
Run = Callable[[Feeds], dict[str, np.ndarray]]
# (picture, shift) for each step; one without a picture starts where the step before it ended.
Plan = list[tuple[np.ndarray | None, list[int]]]

STEP_SIZE = 1.5


def open_onnxruntime(proto: onnx.ModelProto) -> Run:
    return select("cpu").open(proto).run


def open_reference(proto: onnx.ModelProto) -> Run:
    """onnx's reference evaluator, in float64."""
    return lambda feeds: run_float64(proto, dict(feeds))


def open_openvino(proto: onnx.ModelProto) -> Run:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    core = openvino.Core()
    # Left alone it computes in bfloat16 where the processor can.
    network = core.compile_model(core.read_model(proto.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(feeds: Feeds) -> dict[str, np.ndarray]:
        results = network(dict(feeds))
        return {o.name: np.array(results[network.output(o.name)]) for o in proto.graph.output}

    return run


def open_opencv(proto: onnx.ModelProto) -> Run:
    """OpenCV 5's own engine, never the older one that it may fall back to."""
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed")
    if not hasattr(cv2.dnn, "ENGINE_NEW"):
        pytest.skip(f"opencv {cv2.__version__} has no ENGINE_NEW")
    data = np.frombuffer(proto.SerializeToString(), np.uint8)
    network = cv2.dnn.readNetFromONNX(data, cv2.dnn.ENGINE_NEW)
    names = [o.name for o in proto.graph.output]

    def run(feeds: Feeds) -> dict[str, np.ndarray]:
        for name, value in feeds.items():
            network.setInput(value, name)
        return dict(zip(names, network.forward(names), strict=True))

    return run


def install_web(folder: Path) -> Path:
    """The entry file of onnxruntime-web, installed into `folder`, or where ONNXRUNTIME_WEB says it is."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    given = os.environ.get("ONNXRUNTIME_WEB")
    package = Path(given) if given else folder / "node_modules" / "onnxruntime-web"
    if not given:
        if not shutil.which("npm"):
            pytest.skip("npm is not installed")
        command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", f"onnxruntime-web@{WEB_VERSION}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"onnxruntime-web cannot be installed: {done.stderr.strip()[-200:]}")
    return package / "dist" / "ort.node.min.mjs"


def take_steps(run: Run, plan: Plan) -> list[np.ndarray]:
    """The picture after each step of the plan."""
    dreamed: list[np.ndarray] = []
    for picture, shift in plan:
        image = dreamed[-1] if picture is None else picture
        feeds = {"image": image, "step_size": np.array(STEP_SIZE, np.float32), "shift": np.array(shift, np.int64)}
        dreamed.append(np.asarray(run(feeds)["dreamed"], np.float32))
    return dreamed


def take_steps_in_javascript(module: Path, folder: Path, proto: onnx.ModelProto, plan: Plan) -> list[np.ndarray]:
    """The same in onnxruntime-web, as WebAssembly under Node."""
    onnx.save(proto, folder / "step.onnx")
    steps: list[dict[str, object]] = []
    for number, (picture, shift) in enumerate(plan):
        steps.append({"shift": shift, "out": str(folder / f"{number}.out")})
        if picture is not None:
            picture.tofile(folder / f"{number}.in")
            steps[-1]["image"] = str(folder / f"{number}.in")
    dims = plan[0][0].shape
    job = {"module": str(module), "model": str(folder / "step.onnx"), "dims": dims, "stepSize": STEP_SIZE}
    (folder / "job.json").write_text(json.dumps({**job, "steps": steps}))
    command = ["node", str(ROOT / "tests" / "web" / "run.mjs"), str(folder / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [np.fromfile(folder / f"{number}.out", np.float32).reshape(dims) for number in range(len(plan))]
