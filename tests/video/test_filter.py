"""The two lines for OpenCV programs: frames of every kind in and out, settings between frames, and a rate kept."""

from __future__ import annotations

import copy
import itertools
import re
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

import onnxdream
from helpers.paths import DATA
from helpers.small_networks import classifier
from onnxdream.dream.dreamer import Dreamer
from onnxdream.errors import LayerError, OptionError, PictureError
from onnxdream.networks.model import Model
from onnxdream.objectives import l2
from onnxdream.video.dreamer import VideoDreamer
from onnxdream.video.rate_control import Effort, RateControl, efforts

LITTLE = {"octaves": 2, "steps": 3, "frame_steps": 1}


@pytest.fixture(scope="module")
def clip() -> list[np.ndarray]:
    """Real frames, BGR uint8 [90,160,3]."""
    capture = cv2.VideoCapture(str(DATA / "clip.mp4"))
    return [cv2.resize(capture.read()[1], (160, 90), interpolation=cv2.INTER_AREA) for _ in range(12)]


@pytest.fixture(scope="module")
def look() -> Dreamer:
    return onnxdream.create_video_dreamer("fire5", **LITTLE).dreamer


@pytest.fixture
def dreamer(look: Dreamer) -> VideoDreamer:
    return VideoDreamer(look, frame_steps=LITTLE["frame_steps"])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_frames_of_every_kind(clip: list[np.ndarray], dreamer: VideoDreamer) -> None:
    """Each comes back as it went in, and shows the dream of the BGR frame."""
    bgr = clip[0]
    truth = dreamer.apply(bgr)
    assert distance(truth, bgr) > 2
    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    opacity = np.tile(np.arange(160, dtype=np.uint8), (90, 1))
    big = np.zeros((190, 400, 3), np.uint8)
    big[50:140, 100:260] = bgr
    kinds: dict[str, tuple[np.ndarray, np.ndarray, float]] = {
        "float32 in 0..1": (bgr.astype(np.float32) / 255, truth, 255),
        "float64 in 0..1": (bgr / 255, truth, 255),
        "uint16": (bgr.astype(np.uint16) * 257, truth, 1 / 257),
        "BGRA": (np.dstack([bgr, opacity]), np.dstack([truth, opacity]), 1),
        "a region of a larger frame": (big[50:140, 100:260], truth, 1),
        "columns in reverse, twice": (np.ascontiguousarray(bgr[:, ::-1])[:, ::-1], truth, 1),
        "planes, seen as a picture": (np.ascontiguousarray(bgr.transpose(2, 0, 1)).transpose(1, 2, 0), truth, 1),
        "read-only": (np.frombuffer(bgr.tobytes(), np.uint8).reshape(bgr.shape), truth, 1),
    }
    for name, (frame, wanted, white) in kinds.items():
        dreamer.reset()
        before = frame.copy()
        out = dreamer.apply(frame)
        assert (out.shape, out.dtype) == (frame.shape, frame.dtype), name
        assert distance(out * white, wanted) < 1, name
        np.testing.assert_array_equal(frame, before, err_msg=name)
    for frame in (grey, grey[..., None]):
        dreamer.reset()
        out = dreamer.apply(frame)
        assert (out.shape, out.dtype) == (frame.shape, frame.dtype)
        assert distance(out, frame) > 1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, "a frame is a NumPy array, not NoneType; has the capture ended"),
        (np.zeros((4, 5, 2), np.uint8), r"uint8 \[4, 5, 2\] cannot be dreamed"),
        (np.zeros((90, 160, 3), np.int32), r"int32 \[90, 160, 3\] cannot be dreamed"),
        (np.zeros((0, 160, 3), np.uint8), "cannot be dreamed"),
        (np.full((90, 160, 3), np.nan, np.float32), r"a frame of float32 must be of numbers in 0..1; this one has nan"),
        (np.full((90, 160, 3), 200.0), r"a frame of float64 must be of numbers in 0..1; this one has 200 to 200"),
        (np.full((90, 160), -1, np.float16), "a frame of float16 must be of numbers in 0..1; this one has -1 to -1"),
        (np.zeros((8, 8, 3), np.uint8), "8x8 is too small for fire5, which needs at least"),
    ],
)
def test_what_is_no_frame_is_said(dreamer: VideoDreamer, frame: np.ndarray, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        dreamer.apply(frame)


def test_a_large_frame_gets_the_dream_of_a_small_one(rocket: np.ndarray, dreamer: VideoDreamer) -> None:
    """What a dream adds is scaled up; the frame itself stays sharp."""
    frame = np.ascontiguousarray(rocket[..., ::-1])
    small = cv2.resize(frame, (160, 107), interpolation=cv2.INTER_AREA)
    added = dreamer.apply(small).astype(np.float32) - small
    expected = np.clip(frame + cv2.resize(added, frame.shape[1::-1]), 0, 255)
    dreamer.reset()
    dreamer.setWorkingSize((160, 107))
    out = dreamer.apply(frame)
    assert distance(out, frame) > 2
    assert distance(out, expected) < 1


def test_a_mask_shows_the_dream_only_there(clip: list[np.ndarray], look: Dreamer) -> None:
    mask = np.zeros((90, 160), np.uint8)
    mask[:, 100:] = 255
    plain, masked = (VideoDreamer(look, frame_steps=1) for _ in range(2))
    for frame in clip[:3]:
        everywhere, there = plain.apply(frame), masked.apply(frame, mask)
        np.testing.assert_array_equal(there[:, :100], frame[:, :100])
        np.testing.assert_array_equal(there[:, 100:], everywhere[:, 100:])
    plain.reset(), masked.reset()
    np.testing.assert_array_equal(masked.apply(frame, mask > 0), np.where(mask[..., None], plain.apply(frame), frame))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((5, 5), np.uint8), r"a mask of uint8 \[5, 5\] does not fit a frame of \[90, 160\]"),
        ([[0.5] * 160] * 90, "a mask is a NumPy array, not list"),
        (np.full((90, 160), np.nan, np.float32), "a mask of float32 must be of numbers in 0..1; this one has NaN"),
    ],
)
def test_what_is_no_mask_is_said(clip: list[np.ndarray], dreamer: VideoDreamer, mask: Any, message: str) -> None:
    """Before anything is dreamed: the next frame is as if the call had not been."""
    with pytest.raises(PictureError, match=message):
        dreamer.apply(clip[0], mask)
    assert dreamer.last is None


def test_floating_point_may_overshoot_a_little(clip: list[np.ndarray], dreamer: VideoDreamer) -> None:
    """As what was scaled with a sharpening filter does."""
    out = dreamer.apply(clip[0] / 255 * 1.2 - 0.1)
    assert out.min() >= 0
    assert out.max() <= 1


def test_copies_have_the_settings_and_no_past(clip: list[np.ndarray], dreamer: VideoDreamer) -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle", reason="Ray is not installed")
    dreamer.setWorkingSize((128, 72)), dreamer.setStrength(1.5)
    expected = [dreamer.apply(frame) for frame in clip[:2]]
    for again in (copy.deepcopy(dreamer), cloudpickle.loads(cloudpickle.dumps(dreamer))):
        assert again.last is None
        for frame, wanted in zip(clip, expected, strict=False):
            np.testing.assert_array_equal(again.apply(frame), wanted)


def test_settings_change_between_frames(clip: list[np.ndarray], dreamer: VideoDreamer) -> None:
    with dreamer as same:
        assert same is dreamer
        dreamer.apply(clip[0])
        assert (dreamer.getLayer(), dreamer.getStrength(), dreamer.getFrameSteps()) == ("fire5", 2.0, 1)
        assert (dreamer.getFrameStep(), dreamer.getTargetFPS(), dreamer.getWorkingSize()) == (0.75, 0.0, (160, 90))
        strong = distance(dreamer.apply(clip[1]), clip[1])
        dreamer.setStrength(0), dreamer.setFrameStep(0.1)
        assert (dreamer.getStrength(), dreamer.getFrameStep()) == (0, 0.1)
        assert distance(dreamer.apply(clip[2]), clip[2]) < 0.3 * strong
        dreamer.setLayer("fire8")
        dreamer.setWorkingSize((120, 68)), dreamer.setFrameSteps(3)
        dreamer.apply(clip[3])
        assert (dreamer.getLayer(), dreamer.getWorkingSize()) == ("fire8", (120, 68))
    assert dreamer.last is None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *[(name, value) for name in ("strength", "frame_step") for value in (-1, np.nan, np.inf, "ab", None)],
        *[("frame_steps", value) for value in (-1, 1.5, 2.7, np.nan, np.inf, "2")],
        *[("target_fps", value) for value in (-3, np.nan, np.inf, "25")],
        *[("size", value) for value in ((0, 0), (-3, 5), (64.5, 32), "ab", 64, (64,), (64, 36, 3), (1 << 20, 8))],
    ],
)
def test_wrong_settings_are_refused_at_once(dreamer: VideoDreamer, name: str, wrong: object) -> None:
    """By the constructors and by the setters alike, which leave everything as it was."""
    setters = {
        "strength": dreamer.setStrength, "frame_step": dreamer.setFrameStep, "frame_steps": dreamer.setFrameSteps,
        "target_fps": dreamer.setTargetFPS, "size": dreamer.setWorkingSize,
    }  # fmt: skip
    before = dict(vars(dreamer))
    for refused in (
        lambda: setters[name](wrong),
        lambda: VideoDreamer(dreamer.dreamer, **{name: wrong}),
        lambda: onnxdream.create_video_dreamer("fire5", **{name: wrong}),
    ):
        with pytest.raises(
            OptionError, match=rf"^{name} is {re.escape(repr(wrong))}(; it must be|, which is not) [^\n]*$"
        ):
            refused()
    assert vars(dreamer) == before


def test_colors_are_kept_in_pictures_only() -> None:
    with pytest.raises(OptionError, match="keep_colors is for pictures, not for video; omit it"):
        onnxdream.create_video_dreamer("fire5", keep_colors=True)
    assert onnxdream.create_video_dreamer("fire5", keep_colors=False).getLayer() == "fire5"


def test_layers_are_named_alike_everywhere(clip: list[np.ndarray], dreamer: VideoDreamer) -> None:
    for given in ("fire3", "fire3:0.5", ["fire3:0.5", "fire4"], ()):
        made = onnxdream.create_video_dreamer(given, **LITTLE)
        dreamer.setLayer(given)
        assert repr(dreamer.dreamer.objective) == repr(made.dreamer.objective)
    for wrong, error in (("magic", LayerError), (5, OptionError), ("fire3:nan", OptionError)):
        for refused in (dreamer.setLayer, onnxdream.create_video_dreamer):
            with pytest.raises(error):
                refused(wrong)
    assert dreamer.apply(clip[0]).shape == clip[0].shape


def test_a_new_working_size_takes_the_dream_along(clip: list[np.ndarray], dreamer: VideoDreamer) -> None:
    """It is said at once, before any frame and after."""
    assert dreamer.getWorkingSize() == (0, 0)
    dreamer.setWorkingSize((128, 72))
    assert dreamer.getWorkingSize() == (128, 72)
    dreamer.apply(clip[0])
    dreamer.setFrameSteps(0)  # so that what is seen has come along
    for size in ((64, 36), (60, 60)):  # and of another shape: a new scene
        dreamer.setWorkingSize(size)
        assert dreamer.getWorkingSize() == size
        assert distance(dreamer.apply(clip[1]), clip[1]) > 1
        assert dreamer.getWorkingSize() == size
    dreamer.setWorkingSize(None)
    dreamer.apply(clip[2])
    assert dreamer.getWorkingSize() == (160, 90)


def test_frames_as_a_generator(clip: list[np.ndarray], dreamer: VideoDreamer) -> None:
    expected = [dreamer.apply(f) for f in clip[:4]]
    frames = onnxdream.dream_frames(itertools.islice(clip, 4), layer="fire5", **LITTLE)
    for found, wanted in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_dreamers_made_and_used_side_by_side_do_not_mix(clip: list[np.ndarray]) -> None:
    layers = ["fire3", "fire4", "fire3"]

    def dreams(layer: str) -> list[np.ndarray]:
        dreamer = onnxdream.create_video_dreamer(layer, **LITTLE)
        return [dreamer.apply(f) for f in clip[:3]]

    expected = [dreams(layer) for layer in layers]
    start = threading.Barrier(len(layers))
    found: dict[int, list[np.ndarray]] = {}

    def work(number: int) -> None:
        start.wait()
        found[number] = dreams(layers[number])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(layers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, wanted in enumerate(expected):
        np.testing.assert_array_equal(found[number], wanted)


def test_the_effort_fits_the_time() -> None:
    """A machine that takes `pace` seconds for each pixel and step, and changes."""
    options, frame = efforts((360, 640), 4, 2, 1.4, (31, 31)), (360, 640)
    costs = [option.cost(frame, 1.4) for option in options]
    assert costs == sorted(costs, reverse=True)
    assert options[0] == Effort((360, 640), (1, 1, 1, 2))
    control = RateControl(25)

    def settle(pace: float, frames: int = 200) -> tuple[Effort, int]:
        changes, before = 0, control.effort
        for _ in range(frames):
            effort = control.choose(options, frame, 1.4)
            changes, before = changes + (effort != before), effort
            control.record(pace * effort.cost(frame, 1.4), effort.cost(frame, 1.4))
        return effort, changes

    control.record(1.0, 1 / 2.5e-7)
    middle, changes = settle(2.5e-7)
    assert 0.5 / 25 < 2.5e-7 * middle.cost(frame, 1.4) < 1 / 25
    assert changes == 1
    slow, changes = settle(5e-7)
    assert 5e-7 * slow.cost(frame, 1.4) < 1 / 25
    assert slow.size < middle.size
    assert changes <= 2
    fast, _ = settle(1e-8)
    assert fast == options[0]
    hopeless, _ = settle(1.0)
    assert hopeless == options[-1]
    assert str(hopeless) == "64x36, 1 steps"
    assert efforts((31, 31), 4, 2, 1.4, (31, 31))[-1].size == (31, 31)
    assert efforts((20, 20), 4, 2, 1.4, (31, 31)) == [Effort((20, 20), (1,))]


def test_a_rate_no_machine_can_keep_takes_the_least_effort(clip: list[np.ndarray]) -> None:
    dreamer = onnxdream.create_video_dreamer("fire5", octaves=3, steps=2, target_fps=999)
    assert dreamer.getEffort() is None
    for frame in clip[:3]:
        assert dreamer.apply(frame).shape == frame.shape
    least = efforts((90, 160), 3, 2, 1.4, dreamer.dreamer.smallest)[-1]
    assert dreamer.getEffort() == least
    assert dreamer.getWorkingSize() == least.size[::-1]
    assert least.size[0] < 50


def test_a_rate_any_machine_can_keep_takes_all_that_is_given(clip: list[np.ndarray]) -> None:
    dreamer = onnxdream.create_video_dreamer("fire5", octaves=2, steps=2, target_fps=0.01)
    plain = onnxdream.create_video_dreamer("fire5", octaves=2, steps=2, flow="dis-ultrafast")
    np.testing.assert_array_equal(dreamer.apply(clip[0]), plain.apply(clip[0]))
    for frame in clip[1:3]:  # what has been lost on the way is made up for by larger steps
        assert distance(dreamer.apply(frame), frame) >= distance(plain.apply(frame), frame)
    assert dreamer.getEffort() == Effort((90, 160), (1, 2))
    dreamer.setTargetFPS(999)  # and down it goes, taking the dream along
    low = [dreamer.apply(frame) for frame in clip[3:6]]
    assert dreamer.getWorkingSize()[0] < 100
    assert min(distance(a, b) for a, b in zip(low, clip[3:6], strict=True)) > 1
    dreamer.setTargetFPS(0)
    dreamer.apply(clip[6])
    assert dreamer.getWorkingSize() == (160, 90)


def test_a_new_scene_soon_dreams_as_the_first_one(clip: list[np.ndarray], rocket: np.ndarray) -> None:
    """Only the very first frame may take its time; after a cut the dream grows in within a few frames."""
    dreamer = onnxdream.create_video_dreamer("fire5", octaves=2, steps=10, target_fps=0.01)
    still = cv2.resize(rocket[..., ::-1], (160, 90), interpolation=cv2.INTER_AREA)
    first = distance(dreamer.apply(clip[0]), clip[0])
    grown = [distance(dreamer.apply(still), still) for _ in range(8)]
    assert grown[0] > 0.15 * first
    assert max(grown) == grown[-1]
    assert grown[-1] > 0.5 * first


def test_only_the_flow_method_keeps_a_rate() -> None:
    with pytest.raises(OptionError, match="method blend takes all steps for each frame; only flow keeps a rate"):
        onnxdream.create_video_dreamer("fire5", method="blend", target_fps=25)


def test_a_network_of_one_size_keeps_a_rate(clip: list[np.ndarray], tmp_path: Path) -> None:
    onnx.save(classifier(size=(1, 3, 48, 64)), tmp_path / "fixed.onnx")
    dreamer = onnxdream.create_video_dreamer("out", model=str(tmp_path / "fixed.onnx"), octaves=1, target_fps=25)
    for frame in clip[:3]:
        assert distance(dreamer.apply(frame), frame) > 0.5
    assert dreamer.getWorkingSize() == (64, 48)


def test_frames_of_another_shape_begin_a_scene_under_a_rate(clip: list[np.ndarray]) -> None:
    dreamer = onnxdream.create_video_dreamer("fire5", octaves=2, steps=2, target_fps=999)
    for frame in (clip[0], clip[1][:, :90], clip[2], cv2.resize(clip[3], (320, 180))):
        assert dreamer.apply(frame).shape == frame.shape


def test_supervision_calls_it_for_each_frame(tmp_path: Path, dreamer: VideoDreamer) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    capture = cv2.VideoCapture(str(DATA / "clip.mp4"))
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"mp4v"), 25, (160, 90))
    for _ in range(6):
        writer.write(cv2.resize(capture.read()[1], (160, 90)))
    writer.release()
    supervision.process_video(str(source), str(target), callback=lambda frame, index: dreamer.apply(frame))
    before, after = (list(supervision.get_video_frames_generator(str(p))) for p in (source, target))
    assert len(before) == len(after) == 6
    assert min(distance(a, b) for a, b in zip(before, after, strict=True)) > 2
    left = supervision.polygon_to_mask(np.array([[0, 0], [79, 0], [79, 89], [0, 89]]), resolution_wh=(160, 90))
    shown = dreamer.apply(before[0], left > 0)
    assert distance(shown[:, 90:], before[0][:, 90:]) == 0


@pytest.mark.slow
def test_memory_does_not_grow(squeezenet: Model, clip: list[np.ndarray]) -> None:
    resident = Path("/proc/self/statm")
    if not resident.exists():
        pytest.skip("this system does not say how much memory a process has")
    video = VideoDreamer(Dreamer(squeezenet, l2("fire4"), octaves=1, steps=1), frame_steps=1)
    small = [cv2.resize(frame, (96, 54)) for frame in clip]

    def pages(frames: int) -> int:
        for number in range(frames):
            video.apply(small[number % len(small)])
        return int(resident.read_text().split()[1])

    early, late = pages(1000), pages(9000)
    print(f"{early} pages after 1,000 frames, {late} after 10,000")
    assert late < 1.03 * early
