"""A callback that returns False stops the work; the result says so and holds what there is by then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxdream.dream.dreamer import Dreamer, Progress
from onnxdream.images import Picture, write_picture
from onnxdream.interpret.atlas import AtlasPlan, make_atlas, network_digest
from onnxdream.networks.model import Model
from onnxdream.objectives import l2
from onnxdream.picture_files import dream_picture, zoom_sequence
from onnxdream.settings import Settings


@pytest.fixture(scope="module")
def picture(rocket: np.ndarray) -> Picture:
    return Picture(rocket[100:148, 200:264].astype(np.float32))


@pytest.fixture
def dreamer(squeezenet: Model) -> Dreamer:
    return Dreamer(squeezenet, l2("fire2"), octaves=1, steps=3, jitter=0)


def test_a_picture(dreamer: Dreamer, picture: Picture) -> None:
    dreamed, dream = dream_picture(dreamer, picture, Settings(), on_step=lambda progress: progress.step < 1)
    assert (dream.cancelled, dream.steps) == (True, 2)
    np.testing.assert_array_equal(dreamed.rgb, dream.exact)
    assert not dream_picture(dreamer, picture, Settings())[1].cancelled


@pytest.mark.parametrize("after", [1, 3, 5, 9])
def test_a_sequence(dreamer: Dreamer, picture: Picture, after: int) -> None:
    steps: list[Progress] = []

    def on_step(progress: Progress) -> bool:
        steps.append(progress)
        return len(steps) < after

    shape = {"frames": 3, "zoom": 1.1, "rotate": 0.0}
    dreams = [dream for _, dream in zoom_sequence(dreamer, picture, Settings(), **shape, on_step=on_step)]
    assert len(steps) == after
    assert [dream.cancelled for dream in dreams] == [False] * ((after - 1) // 3) + [True]
    whole = [dream for _, dream in zoom_sequence(dreamer, picture, Settings(), **shape)]
    assert [dream.cancelled for dream in whole] == [False] * 3
    np.testing.assert_array_equal(dreams[0].exact if after >= 3 else whole[0].exact, whole[0].exact)


@pytest.mark.parametrize(("after", "made"), [(1, 0), (3, 4), (11, 8)])
def test_an_atlas_goes_on_later(squeezenet: Model, rocket: np.ndarray, tmp_path: Path, after: int, made: int) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        crop = rocket[:64, 64 * number : 64 * number + 64].astype(np.float32)
        write_picture(tmp_path / "pictures" / f"{number}.png", Picture(crop))
    plan = AtlasPlan(
        squeezenet.name, network_digest(squeezenet), ("conv1",), "0-7", str(tmp_path / "pictures"), "fourier", 2, 32, 0
    )
    folder = tmp_path / "site"
    stopped = make_atlas(squeezenet, folder, plan, threads=1, on_progress=lambda progress: progress.done < after)
    assert (stopped.cancelled, stopped.made, stopped.found) == (made < 8, made, 0)
    assert (folder / "index.html").exists()
    rest = make_atlas(squeezenet, folder, plan, threads=1)
    assert (rest.cancelled, rest.made, rest.found) == (False, 8 - made, made)
