"""The way of CUDA: its graphs, recorded sessions and what guards them, on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
import pytest

from onnxdream import Dreamer
from onnxdream import objectives as obj
from onnxdream.backends import choice, cuda, octaves, ort
from onnxdream.errors import BackendError
from onnxdream.model import Model
from onnxdream.step import build_gradient_model, build_step_model

SIZE = {"N": 1, "H": 61, "W": 80}
SHIFTS = [(0, 0), (5, -7), (-80, 200)]


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param not in ort.devices():
        pytest.skip("no GPU here")
    return str(request.param)


@pytest.fixture
def picture(rocket: np.ndarray) -> np.ndarray:
    return rocket[200:261, 280:360].astype(np.float32).transpose(2, 0, 1)[None].copy()


def opened(model: Model, device: str, **how: bool) -> ort.Session:
    proto = build_step_model(model, obj.l2("fire5"), target="cuda", mask=how.pop("mask", False))
    return ort.Session(proto, device, fixed=SIZE, **how)


def last(steps: Iterable[tuple[np.ndarray, Callable[[], np.ndarray]]]) -> tuple[list[float], np.ndarray]:
    objectives, pictures = zip(*((float(o[0]), fetch()) for o, fetch in steps), strict=True)
    return list(objectives), pictures[-1]


@pytest.mark.parametrize("half", [False, True])
def test_its_graphs_step_as_those_for_the_cpu(squeezenet: Model, picture: np.ndarray, half: bool) -> None:
    steps = [(0.2, shift) for shift in SHIFTS]
    graphs = [build_step_model(squeezenet, obj.l2("fire5"), target=target, half=half) for target in ("cuda", "cpu")]
    found, expected = (last(ort.Session(graph, "cpu").ascend(picture, steps)) for graph in graphs)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-2 if half else 1e-5)
    assert np.abs(found[1] - expected[1]).mean() < (0.02 if half else 1e-4)


def test_its_graphs_ask_nothing_of_the_host(squeezenet: Model) -> None:
    """With the size fixed, what the roll is computed from stays beside the picture, and types are settled."""
    proto = build_step_model(squeezenet, obj.l2("fire8"), target="cuda", size=(64, 96))
    small_numbers = {t.name for t in proto.graph.initializer}
    for node in proto.graph.node:
        assert node.op_type not in ("CastLike", "Size", "Shape", "DepthToSpace", "HardSigmoid")
        if node.op_type == "Slice":
            assert set(node.input[1:]) <= small_numbers


def test_recorded_sessions_follow_picture_size_roll_and_mask(
    squeezenet: Model, picture: np.ndarray, device: str
) -> None:
    plain, again = (opened(squeezenet, device, mask=True, recorded=recorded) for recorded in (False, True))
    mask = np.linspace(0, 1, 80, dtype=np.float32)[None, None, None].repeat(61, 2)
    for start, weight in ((picture, mask), (picture[..., ::-1], mask[..., ::-1])):
        for steps in ([(1.5, s) for s in SHIFTS], [(-3.0, (2, 2)), (0.5, (0, 1))]):
            expected, found = (last(session.ascend(start, steps, weight)) for session in (plain, again))
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-3)
            assert np.abs(found[1] - expected[1]).mean() < 0.05
    assert len(again._idle) == 1
    assert not plain._idle


def test_ascents_side_by_side_do_not_share_their_pictures(squeezenet: Model, picture: np.ndarray, device: str) -> None:
    session = opened(squeezenet, device, recorded=True)
    first = iter(session.ascend(picture, [(1.5, (0, 0))] * 2))
    _, fetch = next(first)
    before = fetch()
    last(session.ascend(picture[..., ::-1].copy(), [(1.5, (3, 3))] * 3))
    assert np.array_equal(fetch(), before)
    assert len(list(first)) == 1
    assert len(session._idle) == 2


class Stuck(ort.Session):
    """Goes on rolling the picture as it did when it was recorded."""

    def ascend(self, image: np.ndarray, steps: Any, mask: np.ndarray | None = None, *, replay: bool = True) -> Any:
        return super().ascend(image, [(s, (0, 0) if replay else shift) for s, shift in steps], mask, replay=replay)


def test_a_recording_that_goes_astray_is_not_used(squeezenet: Model) -> None:
    proto = build_step_model(squeezenet, obj.l2("fire5"), target="cuda")

    def broken(**how: bool) -> ort.Session:
        raise BackendError("no such thing")

    assert cuda.recorded(lambda **how: ort.Session(proto, "cpu", fixed=SIZE, **how), SIZE) is not None
    assert cuda.recorded(lambda **how: Stuck(proto, "cpu", fixed=SIZE, **how), SIZE) is None
    assert cuda.recorded(broken, SIZE) is None


def test_a_layout_that_changes_the_steps_is_not_used(squeezenet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, other = (build_step_model(squeezenet, obj.channel("fire5", c), target="cuda", half=True) for c in (3, 4))

    def session(last: onnx.ModelProto, *, nhwc: bool = False, **how: bool) -> ort.Session:
        return ort.Session(last if nhwc else proto, "cpu", fixed=SIZE, nhwc=nhwc, **how)

    for last_channels, used in ((other, False), (proto, True)):
        opened = functools.partial(session, last_channels)
        monkeypatch.setattr(cuda, "_proven", {})
        assert (cuda.channels_last(opened, proto, SIZE) is not None) == used
        assert list(cuda._proven.values()) == [used]
        assert (cuda.channels_last(opened, proto, SIZE) is not None) == used


def test_only_steps_of_one_size_are_recorded(squeezenet: Model, device: str) -> None:
    step, gradient = build_step_model(squeezenet, obj.l2("fire5")), build_gradient_model(squeezenet, obj.l2("fire5"))
    assert cuda.open_session(step, device, fixed=SIZE)._recorded
    assert not cuda.open_session(step, device)._recorded
    assert not cuda.open_session(gradient, device, fixed=SIZE)._recorded


@pytest.mark.parametrize("sizes", [[(30, 41), (44, 57), (61, 80)], [(61, 80)], [(20, 80), (61, 80)]])
def test_octaves_on_a_device_are_those_of_the_host(
    picture: np.ndarray, device: str, sizes: list[tuple[int, int]]
) -> None:
    batch = np.concatenate([picture, picture[:, ::-1]])
    scaling = octaves.Scaling(device)
    host, there = octaves.HostOctaves(batch), octaves.DeviceOctaves(batch, scaling)
    random = np.random.default_rng(0)
    for size in sizes:
        expected, start = host.start(size), there.start(size)
        if callable(start):
            room = scaling.session.room(*expected.shape)
            start(room)
            start = ort.OnDevice(room)()
        np.testing.assert_allclose(start, expected, atol=0.2 if device == "cuda" else 1e-3)
        dreamed = np.clip(expected + random.normal(0, 20, expected.shape), 0, 255).astype(np.float32)
        picture_there = ort.OnDevice(scaling.session.on_device(dreamed))
        host.end(lambda dreamed=dreamed: dreamed)
        there.end(picture_there)
        whole = there.whole(picture_there), host.whole(lambda dreamed=dreamed: dreamed)
        np.testing.assert_allclose(*whole, atol=0.2 if device == "cuda" else 1e-3)


@pytest.mark.parametrize("half", [False, True])
def test_whole_dreams_are_those_of_the_cpu(
    squeezenet: Model, rocket: np.ndarray, monkeypatch: pytest.MonkeyPatch, device: str, half: bool
) -> None:
    picture, mask = rocket[200:350, 200:400], np.linspace(0, 1, 200, dtype=np.float32)[None].repeat(150, 0)
    options: dict[str, Any] = {"octaves": 3, "steps": 3, "step_size": 0.2, "half": half}
    expected = Dreamer(squeezenet, obj.l2("fire5"), device="cpu", **options).dream(picture, mask=mask)
    monkeypatch.setattr("onnxdream.dream.choose", lambda _: choice.CUDA)
    dreamer = Dreamer(squeezenet, obj.l2("fire5"), device=device, **options)
    for _ in range(2):  # the second goes by what the first recorded
        found = dreamer.dream(picture, mask=mask)
        assert found.objective_after == pytest.approx(expected.objective_after, rel=0.05)
        assert (
            np.abs(found.exact - expected.exact).mean()
            < (0.5 if half else 0.05) * np.abs(expected.exact - picture).mean()
        )
