"""What becomes of a gradient before it is a step: within a graph, for tiles, and against what each part states."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from helpers import small_networks as small
from helpers.paths import DATA
from onnxdream import objectives as obj
from onnxdream.dream.shaping import Shaping, color_matrix, gaussian_cascade
from onnxdream.dream.step_graph import build_gradient_model, build_step_model
from onnxdream.engines.select import select
from onnxdream.errors import OptionError
from onnxdream.images import read_picture, to_batch
from onnxdream.networks.model import Model, load_model

BANDS = (0.3, 1.0, 1.0, 0.3)
SHAPINGS = {
    "plain": {},
    "smooth": {"smooth": 1.5},
    "bands": {"bands": BANDS},
    "one band": {"bands": (2.0,)},
    "natural": {"colors": "natural"},
    "natural all": {"bands": BANDS, "colors": "natural", "headroom": 48.0},
    "gains": {"colors": "0.6,0.3", "smooth": 0.5},
    "headroom": {"headroom": 48.0},
    "all": {"bands": BANDS, "colors": "vivid", "headroom": 48.0, "smooth": 0.5},
}  # fmt: skip


def shaped(image: np.ndarray, gradient: np.ndarray, step_size: float = 2.0, **options: Any) -> np.ndarray:
    dreamed = image.copy()
    Shaping(**options).climb(dreamed, gradient.copy(), step_size, None)
    return dreamed


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Two parts of a photograph, [2,3,91,118]."""
    photo = to_batch(read_picture(DATA / "rocket.jpg").rgb)
    return np.concatenate([photo[:, :, :91, :118], photo[:, :, 300:391, 300:418]])


@pytest.fixture(scope="module")
def gradient(squeezenet: Model, image: np.ndarray) -> np.ndarray:
    graph = build_gradient_model(squeezenet, obj.l2("fire6"))
    return select("cpu").open(graph).run({"image": image})["gradient"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", SHAPINGS.values(), ids=SHAPINGS)
def test_a_step_is_the_same_in_tiles_and_in_the_graph(
    squeezenet: Model, image: np.ndarray, gradient: np.ndarray, options: dict[str, Any], masked: bool
) -> None:
    mask = np.linspace(0, 1, 118, dtype=np.float32).reshape(1, 1, 1, 118).repeat(91, 2) if masked else None
    feeds = {"image": image, "step_size": np.array(2.5, np.float32), "shift": np.zeros(2, np.int64)}
    step = select("cpu").open(build_step_model(squeezenet, obj.l2("fire6"), mask=masked, **options))
    expected = step.run({**feeds, **({} if mask is None else {"mask": mask})})["dreamed"]
    dreamed = image.copy()
    Shaping(**options).climb(dreamed, gradient.copy(), 2.5, mask)
    np.testing.assert_allclose(dreamed, expected, atol=2e-3)
    assert np.abs(dreamed - image).mean() > 0.3


@pytest.mark.parametrize("device", ["opencv", "openvino"])
def test_other_engines_shape_alike(squeezenet: Model, image: np.ndarray, device: str) -> None:
    feeds = {"image": image[:1], "step_size": np.array(2.5, np.float32), "shift": np.array([5, -7])}
    engines = [select("cpu"), select(device)]
    graphs = [build_step_model(squeezenet, obj.l2("fire6"), target=e.target, **SHAPINGS["all"]) for e in engines]
    lengths = {"N": 1, "H": image.shape[2], "W": image.shape[3]}
    expected, found = (
        e.open(graph, fixed_shapes=lengths).run(feeds)["dreamed"] for e, graph in zip(engines, graphs, strict=True)
    )
    assert np.abs(found - expected).mean() < 0.01


@pytest.mark.parametrize("half", [False, True])
def test_colours_cost_no_operator(squeezenet: Model, half: bool) -> None:
    """They are part of the convolution that the gradient comes from."""
    free, vivid = (build_step_model(squeezenet, obj.l2("fire6"), half=half, colors=c) for c in ("free", "vivid"))
    assert [n.op_type for n in free.graph.node] == [n.op_type for n in vivid.graph.node]


def test_colours_where_no_convolution_yields_the_gradient(image: np.ndarray, tmp_path: Path) -> None:
    nodes = [small.node("MaxPool", ["x"], "a", kernel_shape=[2, 2]), small.node("Relu", ["a"], "out")]
    onnx.save(small.network(nodes), tmp_path / "pool.onnx")
    model, goal = load_model(tmp_path / "pool.onnx"), obj.l2("out")
    gradients = select("cpu").open(build_gradient_model(model, goal))
    step = select("cpu").open(build_step_model(model, goal, colors="0.5,0.1"))
    feeds = {"image": image, "step_size": np.array(2, np.float32), "shift": np.zeros(2, np.int64)}
    expected = shaped(image, gradients.run({"image": image})["gradient"], colors="0.5,0.1")
    np.testing.assert_allclose(step.run(feeds)["dreamed"], expected, atol=2e-3)


def test_a_plain_step_is_its_formula(image: np.ndarray, gradient: np.ndarray) -> None:
    size = np.abs(gradient).mean((1, 2, 3), keepdims=True, dtype=np.float64)
    expected = np.clip(image + 2 * gradient / size, 0, 255)
    np.testing.assert_allclose(shaped(image, gradient), expected, atol=1e-4)


def test_every_band_has_the_strength_of_its_gain(gradient: np.ndarray) -> None:
    """Of steps that keep one band alone, those of fine ones change fast from pixel to pixel, of coarse ones slowly."""
    grey = np.full_like(gradient, 127)
    still = [shaped(grey, gradient, 1.0, bands=tuple(float(k == n) for k in range(4))) - grey for n in range(4)]
    fineness = [np.abs(np.diff(s, axis=3)).mean() / np.abs(s).mean() for s in still]
    assert all(coarse < 0.75 * fine for fine, coarse in itertools.pairwise(fineness))
    both = shaped(grey, gradient, 1.0, bands=(1.0, 0.0, 0.0, 1.0)) - grey
    fine, coarse = (s / np.sqrt(np.mean(s**2, axis=(1, 2, 3), keepdims=True)) for s in (still[0], still[3]))
    total = fine + coarse  # bands nearly do not overlap, so each is as strong in the sum as alone
    cosine = (both * total).sum() / np.sqrt((both**2).sum() * (total**2).sum())
    assert cosine > 0.95


def test_bands_take_the_speckle_out(gradient: np.ndarray) -> None:
    def speckle(**options: Any) -> float:
        """The share of the step's energy above half of Nyquist's frequency."""
        step = (shaped(np.full_like(gradient, 127), gradient, 1.0, **options) - 127).mean(1)
        energy = np.abs(np.fft.fft2(step)) ** 2
        rows, columns = (np.fft.fftfreq(n) for n in step.shape[1:])
        return float(energy[:, np.hypot(rows[:, None], columns) > 0.25].sum() / energy.sum())

    assert speckle(bands=BANDS) < 0.3 * speckle()


def test_ink_is_grey_and_natural_nearly(gradient: np.ndarray) -> None:
    def chroma(colors: str) -> float:
        step = shaped(base, gradient, colors=colors) - base
        return float(np.abs(step - step.mean(1, keepdims=True)).mean() / np.abs(step).mean())

    base = np.full_like(gradient, 127)
    assert chroma("natural") < 1e-5  # in a grey picture
    base[:, 0] += 40

    assert chroma("ink") < 1e-3
    assert chroma("natural") < 0.15
    assert chroma("natural") < chroma("vivid") < chroma("free")
    assert chroma("0.28,0.13") == pytest.approx(chroma("vivid"))


def test_colours_keep_grey_as_it_is() -> None:
    for colors in ("vivid", "ink", "0.6,0.3"):
        np.testing.assert_allclose(color_matrix(colors) @ np.ones(3), np.ones(3))


def test_headroom_keeps_black_and_white_from_burning(gradient: np.ndarray) -> None:
    dark, light = np.full_like(gradient, 6), np.full_like(gradient, 249)
    for flat in (dark, light):
        free, held = (shaped(flat, gradient, 8.0, headroom=h) for h in (0, 48))
        burnt = [np.mean((d <= 0) | (d >= 255)) for d in (free, held)]
        assert burnt[1] < 0.3 * burnt[0]
    middle = np.full_like(gradient, 127)
    np.testing.assert_array_equal(shaped(middle, gradient, headroom=48), shaped(middle, gradient))


def test_a_picture_that_nothing_responds_to_stays(image: np.ndarray) -> None:
    np.testing.assert_array_equal(shaped(image, np.zeros_like(image), **SHAPINGS["all"]), image)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 16)], ids=str)
def test_small_pictures(size: tuple[int, int]) -> None:
    """A pyramid has no more levels than the picture has halves."""
    rng = np.random.default_rng(0)
    image, gradient = (rng.uniform(64, 192, (1, 3, *size)).astype(np.float32) for _ in range(2))
    dreamed = shaped(image, gradient, **SHAPINGS["all"])
    assert np.isfinite(dreamed).all()


def test_a_cascade_of_gaussians_keeps_the_mean() -> None:
    assert gaussian_cascade(2.0).sum(axis=(1, 2, 3)) == pytest.approx(1)
    assert cv2.minMaxLoc(gaussian_cascade(2.0)[0, 0])[3] == (8, 8)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bands": (1.0, -1.0)}, r"bands is \(1.0, -1.0\); it must be up to 12 gains from 0 to 100"),
        ({"bands": (0.0, 0.0)}, "it must be up to 12 gains"),
        ({"colors": "red"}, "colors is 'red'; it must be natural, vivid, free, ink, or gains"),
        ({"colors": "1,nan"}, "it must be natural"),
        ({"headroom": 300.0}, "headroom is 300.0; it must be between 0 and 255"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        Shaping(**options)
