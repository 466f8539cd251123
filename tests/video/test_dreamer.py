"""Optical flow, the video dreamer and the metrics that judge it, on real frames."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import cv2
import numpy as np
import pytest

from helpers.paths import DATA
from onnxdream import objectives
from onnxdream.dream.dreamer import Dreamer
from onnxdream.errors import OptionError
from onnxdream.images import to_batch
from onnxdream.networks.model import Model
from onnxdream.video.dreamer import VideoDreamer
from onnxdream.video.evaluate.metrics import compare
from onnxdream.video.flow import METHODS, CutDetector, estimator, grey, visible, warp
from onnxdream.video.io.open import open_source

SIZE = (160, 90)


@pytest.fixture(scope="module")
def clip() -> list[np.ndarray]:
    """Real frames, RGB float32 [90,160,3]."""
    with open_source(DATA / "clip.mp4") as video:
        frames = [cv2.resize(f.image, SIZE, interpolation=cv2.INTER_AREA) for f in islice(video.frames(), 16)]
    return [f.astype(np.float32) for f in frames]


@pytest.fixture(scope="module")
def dreamer(squeezenet: Model) -> Dreamer:
    return Dreamer(squeezenet, objectives.l2("fire5"), octaves=2, steps=6, smooth=0.5)


def shifted(picture: np.ndarray, dx: float, dy: float) -> np.ndarray:
    return cv2.warpAffine(
        picture, np.float32([[1, 0, dx], [0, 1, dy]]), picture.shape[1::-1], borderMode=cv2.BORDER_REFLECT
    )


@pytest.mark.parametrize("method", [m for m in METHODS if m != "none"])
def test_flow_finds_a_known_shift(rocket: np.ndarray, method: str) -> None:
    moved = shifted(rocket, 3, -2)
    flow = estimator(method)(grey(rocket), grey(moved))
    textured = cv2.Laplacian(grey(rocket), cv2.CV_32F).__abs__() > 40
    textured[:8], textured[-8:], textured[:, :8], textured[:, -8:] = False, False, False, False
    error = np.abs(flow[textured] - [3, -2]).mean()
    assert error < 0.5
    back = warp(moved.astype(np.float32), flow)
    assert np.abs(back - rocket)[textured].mean() < 0.5 * np.abs(moved.astype(np.float32) - rocket)[textured].mean()


def test_what_leaves_or_is_covered_is_not_trusted() -> None:
    rng = np.random.default_rng(0)
    background = cv2.GaussianBlur(rng.uniform(0, 255, (120, 160)).astype(np.float32), (0, 0), 1.5)
    background = cv2.normalize(background, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    patch = np.ascontiguousarray(background[30:70, 30:70][::-1])
    first, second = background.copy(), background.copy()
    first[40:80, 40:80] = patch
    second[40:80, 52:92] = patch  # the square moves right by 12 and covers what was there
    estimate = estimator("dis-medium")
    trusted = visible(estimate(first, second), estimate(second, first)) > 0
    assert trusted[5:30, 5:150].mean() > 0.95
    assert trusted[50:70, 82:90].mean() < 0.5


def test_every_cut_and_nothing_else(clip: list[np.ndarray], rocket: np.ndarray) -> None:
    other = cv2.resize(rocket, SIZE)
    scenes = [f.astype(np.uint8) for f in clip] + [shifted(other, i, 0) for i in range(6)]
    detect = CutDetector()
    assert [i for i, frame in enumerate(scenes) if detect(frame)] == [0, len(clip)]


def test_frames_are_bgr_in_and_out(dreamer: Dreamer, clip: list[np.ndarray]) -> None:
    bgr = np.ascontiguousarray(clip[0][..., ::-1]).astype(np.uint8)
    out = VideoDreamer(dreamer).apply(bgr)
    rgb = VideoDreamer(dreamer).dream(np.ascontiguousarray(bgr[..., ::-1]).astype(np.float32))
    assert out.dtype == np.uint8
    off = np.abs(out[..., ::-1] - np.rint(rgb))
    assert off.max() <= 1  # where a sum lies between two whole numbers
    assert off.mean() < 1e-3


def test_the_dream_holds_together(dreamer: Dreamer, clip: list[np.ndarray]) -> None:
    """Far less warp error than dreaming each frame alone, and no weaker."""

    def metrics(**options):
        video, frames = VideoDreamer(dreamer, **options), clip[:8]
        return compare(
            zip(frames, [video.dream(f) for f in frames], strict=True), lambda p: dreamer.measure(to_batch(p))
        )

    alone, flow, blend = (metrics(method=m) for m in ("independent", "flow", "blend"))
    assert flow.excess < 0.25 * alone.excess
    assert flow.excess < 0.5 * blend.excess
    assert flow.strength > 0.9 * alone.strength
    assert flow.source_warp_error == alone.source_warp_error < flow.warp_error


def test_the_source_itself_has_no_excess(clip: list[np.ndarray]) -> None:
    metrics = compare((f, f) for f in clip)
    assert metrics.excess == 0
    assert metrics.color_drift == 0
    assert metrics.frames == len(clip)


def test_going_on_from_a_saved_state_gives_the_same_frames(dreamer: Dreamer, clip: list[np.ndarray]) -> None:
    straight = VideoDreamer(dreamer)
    expected = [straight.dream(f) for f in clip[:8]]
    first = VideoDreamer(dreamer)
    for frame in clip[:4]:
        first.dream(frame)
    second = VideoDreamer(dreamer)
    second.restore({**first.source_state(), **first.memory_state()})
    for frame, wanted in zip(clip[4:8], expected[4:], strict=True):
        np.testing.assert_array_equal(second.dream(frame), wanted)


def test_dreaming_small_keeps_the_frame_sharp(dreamer: Dreamer, rocket: np.ndarray) -> None:
    frame = rocket.astype(np.float32)
    dreamed = VideoDreamer(dreamer, size=(107, 160)).dream(frame)
    assert dreamed.shape == frame.shape
    assert np.abs(dreamed - frame).mean() > 2


def test_a_new_size_begins_a_scene(dreamer: Dreamer, clip: list[np.ndarray]) -> None:
    video = VideoDreamer(dreamer)
    video.dream(clip[0])
    assert video.dream(clip[1][:80]).shape == (80, 160, 3)


@pytest.mark.parametrize("options", [{"method": "magic"}, {"flow": "magic"}, {"blend": 2}, {"frame_steps": -1}])
def test_wrong_options_are_refused(dreamer: Dreamer, options: dict) -> None:
    with pytest.raises(OptionError):
        VideoDreamer(dreamer, **options)


def standing_still(frame: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """One picture with a camera's noise."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield np.clip(frame + rng.normal(0, 1.5, frame.shape), 0, 255).astype(np.float32)


@pytest.mark.slow
def test_a_long_static_shot_neither_burns_in_nor_drifts(dreamer: Dreamer, clip: list[np.ndarray]) -> None:
    """300 frames: strength and brightness stay level, and near those of the first frame."""
    video = VideoDreamer(dreamer)
    strengths, lights = [], []
    for frame in standing_still(clip[0], 300):
        dreamed = video.dream(frame)
        strengths.append(dreamer.measure(to_batch(dreamed)))
        lights.append(float((dreamed - frame).mean()))
    early, late = np.mean(strengths[50:100]), np.mean(strengths[-50:])
    print(
        f"strength first {strengths[0]:.0f}, early {early:.0f}, late {late:.0f}; "
        f"light {lights[0]:+.2f} {lights[-1]:+.2f}"
    )
    assert late == pytest.approx(early, rel=0.2)
    assert 0.75 < late / strengths[0] < 1.75
    assert abs(np.mean(lights[-50:]) - np.mean(lights[50:100])) < 1.0


def test_what_stands_still_grows_no_stronger_than_the_scene_began(dreamer: Dreamer, clip: list[np.ndarray]) -> None:
    video = VideoDreamer(dreamer)
    strengths = [dreamer.measure(to_batch(video.dream(frame))) for frame in standing_still(clip[0], 30)]
    assert 0.75 < np.mean(strengths[-5:]) / strengths[0] < 1.75


def test_a_scene_begins_as_light_as_its_source(dreamer: Dreamer, clip: list[np.ndarray]) -> None:
    video = VideoDreamer(dreamer)
    middle = np.clip(clip[0], 64, 192)  # so that nothing is cut off at black and white
    np.testing.assert_allclose(video.dream(middle).mean((0, 1)), middle.mean((0, 1)), atol=0.5)


def test_another_objective_is_measured_by_itself(dreamer: Dreamer, clip: list[np.ndarray]) -> None:
    """One that is a thousand times as large does not fade the dream away."""
    plain, scaled = VideoDreamer(dreamer), VideoDreamer(dreamer)
    plain.dream(clip[0]), scaled.dream(clip[0])
    scaled.dreamer = dreamer.with_objective(1000 * objectives.l2("fire5"))
    for _ in range(4):
        expected, dreamed = plain.dream(clip[0]), scaled.dream(clip[0])
        assert np.std(dreamed - clip[0]) > 0.95 * np.std(expected - clip[0])
