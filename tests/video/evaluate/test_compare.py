"""How steady a dreamed video is: the metrics on frames whose answer is known, and `onnxdream compare`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from helpers.command_line import onnxdream
from helpers.films import write_video
from helpers.paths import CLIP
from onnxdream.video.evaluate.metrics import compare
from onnxdream.video.io.open import open_source

LOOK = ["-l", "fire3", "--octaves", "1", "--steps", "3", "--frame-steps", "1", "--size", "160"]


def dream(out: Path, *more: str) -> str:
    """Dream the clip; what is printed."""
    done = onnxdream("video", CLIP, "-o", out, *LOOK, *more, folder=out.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return onnxdream("compare", *arguments, folder=folder)


def frames_of(path: Path) -> list[np.ndarray]:
    with open_source(path) as video:
        return [f.image for f in video.frames()]


def test_metrics_of_a_dream_that_flickers_over_a_still_source() -> None:
    source = np.full((48, 64, 3), 100, np.float32)
    source[:, 32:] = 140
    metrics = compare(((source, source + 10 * (n % 2)) for n in range(20)), lambda dream: float(dream.mean()))
    assert metrics.frames == 20
    assert metrics.source_warp_error == pytest.approx(0, abs=1e-9)
    assert metrics.excess == pytest.approx((10 / 255) ** 2, rel=1e-4)
    assert metrics.flicker == pytest.approx(10)
    assert metrics.strength == pytest.approx(125)
    assert metrics.brightness_drift == pytest.approx(0, abs=1e-4)


def test_metrics_of_a_dream_that_grows_brighter() -> None:
    source = np.full((48, 64, 3), 100, np.float32)
    brighter, darker = (compare((source, source + sign * n) for n in range(20)) for sign in (1, -1))
    assert brighter.brightness_drift > 5
    assert darker.brightness_drift < -5
    assert brighter.color_drift == pytest.approx(brighter.brightness_drift, rel=0.01)
    assert np.isnan(brighter.strength)


def test_compare_measures_and_draws(tmp_path: Path) -> None:
    steady, independent = tmp_path / "steady.mp4", tmp_path / "independent.mp4"
    dream(steady, "--end", "0.6")
    dream(independent, "--end", "0.6", "--method", "independent")
    chart = tmp_path / "chart.png"
    done = measured(CLIP, steady, independent, "--json", "--plot", chart, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    videos = json.loads(done.stdout)["videos"]
    assert videos[str(steady)]["excess"] < videos[str(independent)]["excess"]
    assert videos[str(independent)]["strength"] > 0
    assert iio.imread(chart).ndim == 3


@pytest.mark.slow
def test_compare_pairs_a_part_with_the_frames_it_was_made_from(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.mkv", tmp_path / "part.mkv"
    still = ["--codec", "ffv1", "--pix-fmt", "bgr0", "--step-size", "0", "--end", "1.2"]
    dream(part, *still, "--start", "0.6")
    dream(whole, *still)
    for path, count in ((part, 15), (whole, 30)):
        figures = json.loads(measured(CLIP, path, "--json", folder=tmp_path).stdout)["videos"][str(path)]
        assert figures["frames"] == count
        assert abs(figures["excess"]) + abs(figures["flicker"]) < 1e-7  # nothing was dreamed: other frames would differ
    plain = write_video(tmp_path / "plain.mp4", frames_of(part))  # says nothing of its beginning
    for source, other, says in ((part, CLIP, "has more frames than"), (CLIP, plain, "has fewer frames than")):
        refused = measured(source, other, folder=tmp_path)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert says in refused.stderr
    assert "written as .png" in measured(CLIP, "not there.mp4", "--plot", "x.jpg", folder=tmp_path).stderr


def test_figures_that_are_not_there_are_null(tmp_path: Path) -> None:
    def strict(text: str) -> dict:
        return dict(json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")))

    out = tmp_path / "one.mp4"
    assert strict(dream(out, "--end", "0.04", "--steps", "0", "--frame-steps", "0", "--json"))["objective"] is None
    assert strict(measured(CLIP, out, "--json", folder=tmp_path).stdout)["videos"][str(out)]["warp_error"] is None
