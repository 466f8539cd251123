"""The way of CUDA: its graphs, captured sessions and what guards them, on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import functools
import gc
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest

from onnxdream import Dreamer
from onnxdream import objectives as obj
from onnxdream.dream.step_graph import build_gradient_model, build_step_model
from onnxdream.engines import cuda_graph
from onnxdream.engines.base import HostOctaves, HostPicture, Picture
from onnxdream.engines.cuda_graph import CudaEngine
from onnxdream.engines.octaves import DeviceOctaves, Scaling
from onnxdream.engines.onnxruntime import DevicePicture, OnnxRuntimeSession
from onnxdream.engines.read_write_lock import ReadWriteLock
from onnxdream.engines.select import select
from onnxdream.errors import BackendError
from onnxdream.images import to_batch
from onnxdream.networks.model import Model

SIZE = {"N": 1, "H": 61, "W": 80}
SHIFTS = [(0, 0), (5, -7), (-80, 200)]


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    try:
        select(request.param)
    except BackendError:
        pytest.skip("no GPU here")
    return str(request.param)


@pytest.fixture
def picture(rocket: np.ndarray) -> np.ndarray:
    return rocket[200:261, 280:360].astype(np.float32).transpose(2, 0, 1)[None].copy()


def opened(model: Model, device: str, **how: bool) -> OnnxRuntimeSession:
    proto = build_step_model(model, obj.l2("fire5"), target="cuda", mask=how.pop("mask", False))
    return OnnxRuntimeSession(proto, [device], fixed_shapes=SIZE, **how)


def last(steps: Iterable[tuple[np.ndarray, Picture]]) -> tuple[list[float], np.ndarray]:
    objectives, pictures = zip(*((float(o[0]), picture.fetch()) for o, picture in steps), strict=True)
    return list(objectives), pictures[-1]


@pytest.mark.parametrize("half", [False, True])
def test_its_graphs_step_as_those_for_the_cpu(squeezenet: Model, picture: np.ndarray, half: bool) -> None:
    steps = [(0.2, shift) for shift in SHIFTS]
    graphs = [build_step_model(squeezenet, obj.l2("fire5"), target=target, half=half) for target in ("cuda", "cpu")]
    found, expected = (last(select("cpu").open(graph).ascend(picture, steps)) for graph in graphs)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-2 if half else 1e-5)
    assert np.abs(found[1] - expected[1]).mean() < (0.02 if half else 1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_its_graphs_ask_nothing_of_the_host(squeezenet: Model, half: bool) -> None:
    """What the roll is computed from stays beside the picture, and what runtimes do not settle at once is settled."""
    about, sizes = (squeezenet, obj.l2("fire8")), (None, (64, 96))
    free, fixed = (build_step_model(*about, target="cuda", half=half, size=size) for size in sizes)
    for proto in (free, fixed):
        assert not {n.op_type for n in proto.graph.node} & {"Size", "DepthToSpace", "HardSigmoid"}
        assert sum(n.op_type == "CastLike" for n in proto.graph.node) == (proto is free)
    weights = {t.name for t in fixed.graph.initializer}
    for node in fixed.graph.node:
        assert node.op_type != "Shape"
        if node.op_type == "Slice":
            assert set(node.input[1:]) <= weights


def test_captured_sessions_follow_picture_size_roll_and_mask(
    squeezenet: Model, picture: np.ndarray, device: str
) -> None:
    plain, again = (opened(squeezenet, device, mask=True, capture=capture) for capture in (False, True))
    mask = np.linspace(0, 1, 80, dtype=np.float32)[None, None, None].repeat(61, 2)
    for start, weight in ((picture, mask), (picture[..., ::-1], mask[..., ::-1])):
        for steps in ([(1.5, s) for s in SHIFTS], [(-3.0, (2, 2)), (0.5, (0, 1))]):
            expected, found = (last(session.ascend(start, steps, weight)) for session in (plain, again))
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-3)
            assert np.abs(found[1] - expected[1]).mean() < 0.05
    assert len(again._idle) == 1
    assert not plain._idle


def test_ascents_side_by_side_do_not_share_their_pictures(squeezenet: Model, picture: np.ndarray, device: str) -> None:
    session = opened(squeezenet, device, capture=True)
    first = iter(session.ascend(picture, [(1.5, (0, 0))] * 2))
    _, stepped = next(first)
    before = stepped.fetch()
    last(session.ascend(picture[..., ::-1].copy(), [(1.5, (3, 3))] * 3))
    assert np.array_equal(stepped.fetch(), before)
    assert len(list(first)) == 1
    assert len(session._idle) == 2


class Stuck(OnnxRuntimeSession):
    """Goes on rolling the picture as it did when it was captured."""

    def ascend(self, image: np.ndarray, steps: Any, mask: np.ndarray | None = None, *, replay: bool = True) -> Any:
        return super().ascend(image, [(s, (0, 0) if replay else shift) for s, shift in steps], mask, replay=replay)


def step_graphs(model: Model, *channels: int, half: bool = False) -> list[onnx.ModelProto]:
    return [build_step_model(model, obj.channel("fire5", c), target="cuda", half=half) for c in channels]


def test_a_capture_that_goes_astray_is_not_used(squeezenet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    (proto,) = step_graphs(squeezenet, 3)
    monkeypatch.setattr(cuda_graph, "_proven", {})

    def broken(**how: bool) -> OnnxRuntimeSession:
        raise BackendError("no such thing")

    def opened(kind: type[OnnxRuntimeSession], **how: bool) -> OnnxRuntimeSession:
        return kind(proto, ["cpu"], fixed_shapes=SIZE, **how)

    good, stuck = (functools.partial(opened, kind) for kind in (OnnxRuntimeSession, Stuck))
    assert cuda_graph.captured(good, b"good", SIZE) is not None
    assert cuda_graph.captured(stuck, b"stuck", SIZE) is None
    assert cuda_graph.captured(broken, b"broken", SIZE) is None
    assert cuda_graph.captured(good, b"broken", SIZE) is None
    assert cuda_graph._proven == {(b"good", False): True, (b"stuck", False): False, (b"broken", False): False}


def test_a_layout_that_changes_the_steps_is_not_used(squeezenet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, other = step_graphs(squeezenet, 3, 4, half=True)
    monkeypatch.setattr(cuda_graph, "_proven", {})

    def opened(last: onnx.ModelProto, *, nhwc: bool = False, **how: bool) -> OnnxRuntimeSession:
        return OnnxRuntimeSession(last if nhwc else proto, ["cpu"], fixed_shapes=SIZE, nhwc=nhwc, **how)

    assert cuda_graph.captured(functools.partial(opened, other), b"other", SIZE, nhwc=True) is None
    assert cuda_graph.captured(functools.partial(opened, proto), b"same", SIZE, nhwc=True) is not None


def test_sessions_are_closed_when_nothing_asks_for_them(squeezenet: Model, picture: np.ndarray, device: str) -> None:
    gc.disable()
    try:
        session = opened(squeezenet, device, capture=True)
        last(session.ascend(picture, [(1.5, (0, 0))] * 2))
        gone = weakref.ref(session)
        del session
        assert gone() is None
    finally:
        gc.enable()


def test_pictures_that_do_not_fit_are_refused_and_others_converted(
    squeezenet: Model, picture: np.ndarray, device: str
) -> None:
    session = opened(squeezenet, device, capture=True)
    steps = [(1.5, (1, 2))] * 2
    expected = last(session.ascend(picture, steps))
    found = last(session.ascend(np.asfortranarray(picture, np.float64), steps))
    np.testing.assert_allclose(found[1], expected[1], atol=1e-3)
    with pytest.raises(BackendError, match=r"image of \[1, 3, 61, 80\] was given one of \[1, 3, 80, 61\]"):
        last(session.ascend(picture.swapaxes(2, 3), steps))


def test_who_captures_is_alone(squeezenet: Model, picture: np.ndarray, device: str) -> None:
    """Threads that open sessions, step and capture side by side all come to the same end."""
    expected = last(opened(squeezenet, device).ascend(picture, [(1.5, s) for s in SHIFTS]))[1]

    def dream(_: int) -> np.ndarray:
        session = opened(squeezenet, device, capture=True)
        return [last(session.ascend(picture, [(1.5, s) for s in SHIFTS]))[1] for _ in range(3)][-1]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(dream, range(8)):
            assert np.abs(found - expected).mean() < 0.05


def test_a_writer_excludes_all_others() -> None:
    lock, inside, most = ReadWriteLock(), [0], [0]

    def use(writes: bool) -> None:
        with lock.write_lock() if writes else lock.read_lock():
            if writes:
                assert inside[0] == 0
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, [i % 5 == 0 for i in range(60)]))
    assert most[0] > 1


@pytest.mark.parametrize("steps", [[], [0, 2], [2, 0]])
def test_octaves_without_steps(
    squeezenet: Model, rocket: np.ndarray, monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    batch = to_batch(rocket[200:300, 200:300])
    expected = Dreamer(squeezenet, obj.l2("fire5"), device="cpu").ascend(batch, steps=steps)
    monkeypatch.setattr("onnxdream.dream.dreamer.select", lambda _: CudaEngine(["cpu"]))
    found = Dreamer(squeezenet, obj.l2("fire5"), device="cpu").ascend(batch, steps=steps)
    assert found[1:] == expected[1:] == (sum(steps), False)
    assert np.abs(found[0] - expected[0]).mean() < 0.1


def test_only_steps_of_one_size_are_captured(squeezenet: Model, device: str) -> None:
    step, gradient = build_step_model(squeezenet, obj.l2("fire5")), build_gradient_model(squeezenet, obj.l2("fire5"))
    engine = CudaEngine([device])
    assert engine.open(step, fixed_shapes=SIZE)._capture
    assert not engine.open(step)._capture
    assert not engine.open(gradient, fixed_shapes=SIZE)._capture


@pytest.mark.parametrize("sizes", [[(30, 41), (44, 57), (61, 80)], [(61, 80)], [(20, 80), (61, 80)]])
def test_octaves_on_a_device_are_those_of_the_host(
    picture: np.ndarray, device: str, sizes: list[tuple[int, int]]
) -> None:
    batch = np.concatenate([picture, picture[:, ::-1]])
    scaling = Scaling(device)
    host, there = HostOctaves(batch), DeviceOctaves(batch, scaling)
    random = np.random.default_rng(0)
    for size in sizes:
        expected, start = host.start(size), there.start(size)
        if isinstance(start, Picture):
            start = start.fetch()
        np.testing.assert_allclose(start, expected, atol=0.2 if device == "cuda" else 1e-3)
        dreamed = np.clip(expected + random.normal(0, 20, expected.shape), 0, 255).astype(np.float32)
        picture_there, picture_here = DevicePicture(scaling.session.to_device(dreamed)), HostPicture(dreamed)
        host.end(picture_here)
        there.end(picture_there)
        whole = there.whole(picture_there), host.whole(picture_here)
        np.testing.assert_allclose(*whole, atol=0.2 if device == "cuda" else 1e-3)


@pytest.mark.parametrize("half", [False, True])
def test_whole_dreams_are_those_of_the_cpu(
    squeezenet: Model, rocket: np.ndarray, monkeypatch: pytest.MonkeyPatch, device: str, half: bool
) -> None:
    picture, mask = rocket[200:350, 200:400], np.linspace(0, 1, 200, dtype=np.float32)[None].repeat(150, 0)
    options: dict[str, Any] = {"octaves": 3, "steps": 3, "step_size": 0.2, "half": half}
    expected = Dreamer(squeezenet, obj.l2("fire5"), device="cpu", **options).dream(picture, mask=mask)
    monkeypatch.setattr("onnxdream.dream.dreamer.select", lambda _: CudaEngine([device]))
    dreamer = Dreamer(squeezenet, obj.l2("fire5"), device=device, **options)
    for _ in range(2):  # the second replays what the first captured
        found = dreamer.dream(picture, mask=mask)
        assert found.objective_after == pytest.approx(expected.objective_after, rel=0.05)
        assert (
            np.abs(found.exact - expected.exact).mean()
            < (0.5 if half else 0.05) * np.abs(expected.exact - picture).mean()
        )
