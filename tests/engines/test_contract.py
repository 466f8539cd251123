"""What every engine must do, whichever it is: one set of tests for all devices that are there."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import onnxdream
from helpers import command_line, engines
from helpers.breadth import everyday
from helpers.engines import LAYERS
from helpers.paths import DATA
from onnxdream import Dreamer
from onnxdream import objectives as obj
from onnxdream.dream.dreamer import Dream
from onnxdream.dream.shaping import Shaping
from onnxdream.dream.step_graph import build_gradient_model, build_step_model
from onnxdream.engines.base import Engine, HostOctaves, HostPicture, Session
from onnxdream.engines.select import select
from onnxdream.errors import BackendError, PictureError
from onnxdream.export import TOLERANCE, export_model, verify
from onnxdream.images import to_batch
from onnxdream.interpret.top_activations import record_top_activations
from onnxdream.interpret.visualizer import Visualizer
from onnxdream.networks.model import Model, load_model

Opened = Callable[[str, str], Session]
Dreamed = Callable[[str, str], tuple[Dream, Dream]]

SIZE = (112, 160)
STEPS = [(1.5, (0, 0)), (-2.0, (5, -7)), (0.5, (-80, 200))]
# A process that has little memory left when the work begins, and prints what is raised.
OUT_OF_MEMORY = """
import resource, sys
import numpy as np
from onnxdream import load_model, objectives
from onnxdream.dream.step_graph import build_step_model
from onnxdream.engines.select import select
from onnxdream.errors import OutOfMemoryError

engine = select(sys.argv[1])
model = build_step_model(load_model("squeezenet1_1"), objectives.l2("fire5"), target=engine.target)
def ascend(side, fixed_shapes):
    image = np.ones((1, 3, side, side), np.float32)
    for _ in engine.open(model, fixed_shapes=fixed_shapes, threads=1).ascend(image, [(1.5, (0, 0))]):
        pass

ascend(64, None)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))
for fixed_shapes in (None, dict(N=1, H=2048, W=2048)):
    try:
        ascend(2048, fixed_shapes)
    except OutOfMemoryError as error:
        print(error)
"""


@pytest.fixture(params=["cpu", "cuda", "opencv", "openvino"])
def device(request: pytest.FixtureRequest) -> str:
    try:
        select(request.param)
    except BackendError as error:
        pytest.skip(str(error))
    return str(request.param)


@pytest.fixture
def engine(device: str) -> Engine:
    return select(device)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return cv2.resize(engines.picture(), SIZE[::-1], interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def batch(picture: np.ndarray) -> np.ndarray:
    return to_batch(picture)


@pytest.fixture(scope="module")
def opened(squeezenet: Model) -> Opened:
    """Sessions by device and kind, each opened once: "gradient", "step" and "masked step"."""

    @functools.cache
    def open_session(device: str, kind: str) -> Session:
        engine, goal = select(device), obj.l2("fire5")
        if kind == "gradient":
            return engine.open(build_gradient_model(squeezenet, goal, target=engine.target))
        graph = build_step_model(squeezenet, goal, mask=kind == "masked step", target=engine.target)
        return engine.open(graph, fixed_shapes=dict(zip("NHW", (1, *SIZE), strict=True)))

    return open_session


@pytest.fixture(scope="module")
def dreamed(picture: np.ndarray) -> Dreamed:
    """By network and device, each dreamed once: a step an octave, and ten steps."""

    @functools.cache
    def dream(name: str, device: str) -> tuple[Dream, Dream]:
        model, goal = load_model(name), obj.l2(LAYERS[name])
        looks: list[dict[str, Any]] = [{"octaves": 2, "steps": 1, "smooth": 0.5}, {"octaves": 1, "steps": 10}]
        first, second = (Dreamer(model, goal, device=device, **look).dream(picture) for look in looks)
        return first, second

    return dream


@pytest.fixture(scope="module")
def tiled(squeezenet: Model, picture: np.ndarray) -> Callable[[str], Dream]:
    """By device, each dreamed once: a picture for which 64 MiB are too little."""
    large = cv2.resize(picture, (360, 240), interpolation=cv2.INTER_CUBIC)

    @functools.cache
    def dream(device: str) -> Dream:
        dreamer = Dreamer(squeezenet, obj.l2("fire5"), octaves=1, steps=1, max_memory=64 << 20, device=device)
        assert dreamer._tiling((1, 3, 240, 360), reserved_bytes=0) is not None
        return dreamer.dream(large)

    return dream


def close(found: np.ndarray, expected: np.ndarray, start: np.ndarray) -> bool:
    """Whether two dreams of a few steps differ by rounding only."""
    return bool(np.abs(found - expected).mean() < 0.02 * np.abs(expected - start).mean())


def test_it_says_what_it_is(engine: Engine, device: str, opened: Opened) -> None:
    assert engine.device == device
    assert engine.version[0].isdigit()
    session = opened(device, "masked step")
    assert session.provider == engine.provider
    assert session.inputs == {
        "image": (1, 3, *SIZE), "shift": (2,), "step_size": (), "mask": (1, 1, *SIZE),
    }  # fmt: skip


def test_run(device: str, opened: Opened, batch: np.ndarray) -> None:
    """Batches and sizes that were not said before; outputs stay as they were when it runs again.

    A unit that rounding carries over the kink of its activation changes the gradient, but only where it looks.
    """
    session, reference = opened(device, "gradient"), opened("cpu", "gradient")
    assert session.inputs == {"image": (None, 3, None, None)}
    several = np.concatenate([batch, batch[:, :, ::-1]])
    first = session.run({"image": several})
    kept = first["gradient"].copy()
    for given, found in ((several, first), (batch[..., 8:], session.run({"image": batch[..., 8:]}))):
        expected = reference.run({"image": given})
        assert found.keys() == {"gradient", "objective"}
        np.testing.assert_allclose(found["objective"], expected["objective"], rtol=1e-3)
        assert np.linalg.norm(found["gradient"] - expected["gradient"]) < 1e-2 * np.linalg.norm(expected["gradient"])
    np.testing.assert_array_equal(first["gradient"], kept)


def test_ascend(device: str, opened: Opened, batch: np.ndarray) -> None:
    """Each step goes along the gradient of the rolled picture, rolled back; pictures that were fetched stay."""
    gradient, image = opened("cpu", "gradient"), batch.copy()
    fetched = []
    for (size, shift), (objective, picture) in zip(STEPS, opened(device, "step").ascend(batch, STEPS), strict=True):
        expected = gradient.run({"image": np.roll(image, shift, (2, 3))})
        before = image.copy()
        Shaping().climb(image, np.roll(expected["gradient"], (-shift[0], -shift[1]), (2, 3)), size, None)
        fetched.append((picture.fetch(), image.copy()))
        assert picture.shape == batch.shape
        assert objective == pytest.approx(expected["objective"], rel=1e-2)
        assert close(fetched[-1][0], image, before)
        image[:] = fetched[-1][0]
    assert all(close(found, expected, batch) for found, expected in fetched)
    assert batch.min() >= 0


def test_a_mask_says_where(device: str, opened: Opened, batch: np.ndarray) -> None:
    mask = np.zeros((1, 1, *SIZE), np.float32)
    mask[..., 80:] = np.linspace(0.5, 1, 80)
    session, reference = (opened(each, "masked step") for each in (device, "cpu"))
    *_, (_, masked) = session.ascend(HostPicture(batch), STEPS, mask)
    *_, (_, expected) = reference.ascend(batch, STEPS, mask)
    np.testing.assert_array_equal(masked.fetch()[..., :80], batch[..., :80])
    assert close(masked.fetch(), expected.fetch(), batch)


def test_what_does_not_fit_is_refused(device: str, opened: Opened, squeezenet: Model, batch: np.ndarray) -> None:
    session, turned = opened(device, "masked step"), batch.swapaxes(2, 3)
    mask = np.ones((1, 1, *SIZE), np.float32)
    refused = r"image of \[1, 3, 112, 160\] was given one of \[1, 3, 160, 112\]$"
    with pytest.raises(BackendError, match=refused):
        next(iter(session.ascend(turned, STEPS, mask)))
    with pytest.raises(BackendError, match=r"mask of \[1, 1, 112, 160\] was given one of \[1, 1, 160, 112\]$"):
        next(iter(session.ascend(batch, STEPS, mask.swapaxes(2, 3))))
    with pytest.raises(BackendError, match=r"there is no input 'picture', only image$"):
        opened(device, "gradient").run({"picture": batch})
    with pytest.raises(PictureError, match="too small"):
        Dreamer(squeezenet, obj.l2("fire5"), device=device).dream(np.zeros((8, 8, 3), np.uint8))


def test_octaves_are_those_of_the_host(engine: Engine, batch: np.ndarray) -> None:
    host, own = HostOctaves(batch), engine.octaves(batch)
    for size in ((56, 80), SIZE):
        start, expected = own.start(size), host.start(size)
        start = start if isinstance(start, np.ndarray) else start.fetch()
        np.testing.assert_allclose(start, expected, atol=0.2)
        dreamed = HostPicture(np.clip(expected + 20, 0, 255))
        own.end(dreamed)
        host.end(dreamed)
        np.testing.assert_allclose(own.whole(dreamed), host.whole(dreamed), atol=0.2)


@pytest.mark.parametrize("name", everyday(LAYERS, 2))
def test_a_whole_dream_is_the_cpus(device: str, name: str, picture: np.ndarray, dreamed: Dreamed) -> None:
    """Within the tolerance that the README states.

    Engines round differently, and each step multiplies what differs. A dream of a step an octave is the same picture;
    one of ten steps has drifted in detail, as two lowerings of one graph on ONNX Runtime do, and reaches the same
    objective.
    """
    (expected, drifted), (found, reached) = dreamed(name, "cpu"), dreamed(name, device)
    assert np.abs(expected.exact - picture).mean() > 1
    assert np.abs(found.exact - expected.exact).mean() < 0.1
    assert reached.objective_before == pytest.approx(drifted.objective_before, rel=1e-3)
    assert reached.objective_after == pytest.approx(drifted.objective_after, rel=0.05)
    assert np.abs(reached.exact - drifted.exact).mean() < np.abs(drifted.exact - picture).mean()
    assert found.provider == select(device).provider


def test_a_dream_in_tiles_is_the_cpus(device: str, tiled: Callable[[str], Dream]) -> None:
    found = tiled(device)
    assert np.abs(found.exact - tiled("cpu").exact).mean() < 0.1
    assert found.objective_after > found.objective_before


def test_pictures_of_a_batch_do_not_depend_on_each_other(device: str, squeezenet: Model, batch: np.ndarray) -> None:
    dreamer = Dreamer(squeezenet, obj.l2("fire5"), octaves=1, steps=1, device=device)
    other = batch[:, :, ::-1].copy()
    together = dreamer.ascend(np.concatenate([batch, other]))[0]
    alone = np.concatenate([dreamer.ascend(one)[0] for one in (batch, other)])
    assert close(together, alone, np.concatenate([batch, other]))


def test_channels_are_visualised(device: str, squeezenet: Model) -> None:
    """As strongly as on the CPU; Adam makes as much of small differences as of large ones."""
    goals = [obj.channel("fire3", c) for c in range(3)]
    theirs, ours = (Visualizer(squeezenet, size=(64, 64), steps=8, device=d, threads=2) for d in ("cpu", device))
    expected, found = (visualizer(goals).pictures for visualizer in (theirs, ours))
    assert np.abs(found.astype(int) - expected).mean() < 0.2 * np.abs(expected - 127.5).mean()
    np.testing.assert_allclose(ours.measure(goals, found), theirs.measure(goals, found), rtol=1e-3)
    np.testing.assert_allclose(ours.measure(goals, found), theirs.measure(goals, expected), rtol=0.1)


def test_pages_of_channels_are_made(device: str, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(DATA / "rocket.jpg", tmp_path / "pictures")
    small = ("-l", "fire2", "--channels", "0-1", "--size", 48, "--steps", 2, "--device", device)
    for command in (
        ("visualize", "squeezenet1_1", *small, "-o", "grid.png"),
        ("atlas", "squeezenet1_1", *small, "--images", "pictures", "-o", "atlas"),
    ):
        done = command_line.onnxdream(*command, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "atlas" / "fire2").iterdir()}
    assert {"channel-0.jpg", "channel-1.jpg", "statistics.json"} <= made
    assert (tmp_path / "grid.png").stat().st_size > 0


def test_activations_are_the_cpus(device: str, squeezenet: Model, picture: np.ndarray) -> None:
    expected, found = (onnxdream.activations(squeezenet, picture, "fire3", device=d) for d in ("cpu", device))
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    pictures = [np.rint(to_batch(p)).astype(np.uint8) for p in (picture, picture[::-1])]
    expected, found = (record_top_activations(squeezenet, "fire3", pictures, device=d).peaks for d in ("cpu", device))
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=0.5)


def test_an_exported_file_is_verified(engine: Engine, squeezenet: Model, tmp_path: Path) -> None:
    export_model(squeezenet, obj.l2("fire5"), tmp_path / "step.onnx", target=engine.target)
    assert verify(tmp_path / "step.onnx", size=(64, 80), device=engine.device) < TOLERANCE


@pytest.mark.skipif(sys.platform != "linux", reason="how much memory a process has is known on Linux only")
def test_too_little_memory_is_said(engine: Engine) -> None:
    if not engine.on_cpu:
        pytest.skip("its memory is its own")
    command = [sys.executable, "-c", OUT_OF_MEMORY, engine.device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = "not enough memory for a picture of this size; make it smaller or lower --max-memory"
    assert done.stdout.splitlines() == [said] * 2, done.stderr
