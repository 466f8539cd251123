"""Feature visualisation: its parts against their definitions, and its pictures against natural ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import skimage
from onnx import save

import onnxdream
from helpers.breadth import everyday
from helpers.small_networks import classifier, conv, network, node, weights
from onnxdream import objectives as obj
from onnxdream.dream.dreamer import features
from onnxdream.dream.step_graph import build_gradient_model, build_objective_model
from onnxdream.engines.select import select
from onnxdream.errors import LayerError, ModelError, OptionError, PictureError
from onnxdream.images import resize, to_batch
from onnxdream.interpret.activations import _tokens_to_grid
from onnxdream.interpret.channel_inputs import batch_objectives, graph_key
from onnxdream.interpret.parametrization import Fourier, MaCo, Parametrization, Pixel, natural_magnitude
from onnxdream.interpret.top_activations import read_center_crop, record_top_activations
from onnxdream.interpret.transforms import AffineWarp, RandomTransform
from onnxdream.interpret.visualizer import StepProgress, Visualizer
from onnxdream.networks.model import Model

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("size", [(12, 10), (11, 9), (8, 13)])
@pytest.mark.parametrize("kind", [Fourier, MaCo, Pixel])
def test_what_is_pulled_back_is_the_gradient(kind: type, size: tuple[int, int]) -> None:
    picture: Parametrization = kind(size)
    parameters = np.stack([picture.start(np.random.default_rng(i)) for i in range(2)])
    pictures, vjp = picture(parameters)
    assert pictures.shape == (2, 3, *size)
    assert pictures.dtype == np.float32
    assert 0 <= pictures.min() < pictures.max() <= 255
    weights = RNG.normal(size=pictures.shape).astype(np.float32)
    gradient = vjp(weights)
    assert gradient.shape == parameters.shape
    for _ in range(3):
        way = RNG.normal(size=parameters.shape).astype(np.float32) * 0.01
        ahead, behind = (picture(parameters + s * way)[0].astype(np.float64) for s in (1, -1))
        change = ((ahead - behind) * weights).sum() / 2
        assert change == pytest.approx((gradient.astype(np.float64) * way).sum(), rel=5e-3, abs=5e-3)


@pytest.mark.parametrize("kind", [Fourier, Pixel])
def test_a_picture_is_encoded_and_comes_back(kind: type, rocket: np.ndarray) -> None:
    source = resize(to_batch(rocket), (64, 80))[0]
    parametrization: Parametrization = kind((64, 80))
    back, _ = parametrization(parametrization.encode(source)[None])
    inside = (source > 3) & (source < 252)
    assert np.abs(back[0] - source)[inside].max() < 0.5


def test_maco_keeps_the_magnitude_of_natural_pictures(rocket: np.ndarray) -> None:
    size = (48, 48)
    magnitude = natural_magnitude([resize(to_batch(rocket), size)[0]], size)
    assert magnitude.shape == (3, 48, 25)
    assert magnitude[0, 1, 1] > 10 * magnitude[0, 20, 20]  # large things are stronger than small ones
    pictures, _ = MaCo(size, magnitude)(MaCo(size, magnitude).start(RNG)[None])
    assert 20 < pictures.std() < 100


@pytest.mark.parametrize("wrap", [False, True])
def test_the_transpose_of_a_warp_is_exact(wrap: bool) -> None:
    for size in ((20, 31), (16, 16)):
        warp = RandomTransform(5, (0.8, 1.3), 25, wrap=wrap).sample(RNG, size)
        a, b = (RNG.normal(0, 50, (2, 3, *size)).astype(np.float32) for _ in range(2))
        forward = ((warp(a + np.float32(127.5)) - 127.5).astype(np.float64) * b).sum()
        assert forward == pytest.approx((a.astype(np.float64) * warp.vjp(b)).sum(), rel=1e-4)


def test_warps_move_as_they_say() -> None:
    picture = RNG.uniform(0, 255, (1, 3, 12, 14)).astype(np.float32)
    np.testing.assert_allclose(AffineWarp((12, 14), 1, 0, (0, 0))(picture), picture, atol=1e-3)
    shifted = AffineWarp((12, 14), 1, 0, (3, -2), wrap=True)(picture)
    np.testing.assert_allclose(shifted, np.roll(picture, (3, -2), (2, 3)), atol=1e-3)
    grey = AffineWarp((12, 14), 1, 0, (5, 0))(picture)
    np.testing.assert_allclose(grey[:, :, :5], 127.5, atol=1e-3)
    square = picture[..., :12]
    np.testing.assert_allclose(
        AffineWarp((12, 12), 1, math.pi / 2, (0, 0))(square), np.rot90(square, -1, (2, 3)), atol=0.05
    )


@pytest.mark.parametrize(
    "make",
    everyday(
        [
            lambda c: obj.channel("fire4", c),
            lambda c: obj.neuron("fire4", c),
            lambda c: obj.neuron("fire4", c, 1, 2),
            lambda c: obj.logit("logits", c),
            lambda c: -0.5 * obj.channel("fire4", c, c + 1) + 2 * obj.neuron("fire2", c),
            lambda c: obj.direction("fire2", np.eye(128)[c] + 0.5 * np.eye(128)[c + 1], 2) - obj.mean("fire3"),
        ],
        2,
    ),
)
def test_one_graph_serves_objectives_that_differ_in_channels(squeezenet: Model, make) -> None:
    objectives = [make(c) for c in (2, 9, 40)]
    assert len({graph_key(o) for o in objectives}) == 1
    image = RNG.uniform(0, 255, (3, 3, 80, 96)).astype(np.float32)
    goal, feeds = batch_objectives(squeezenet, objectives)
    together = (
        select("cpu")
        .open(build_gradient_model(squeezenet, goal, size=(80, 96), batch=3))
        .run({"image": image, **feeds})
    )
    for i, objective in enumerate(objectives):
        alone = select("cpu").open(build_gradient_model(squeezenet, objective)).run({"image": image[i : i + 1]})
        assert together["objective"][i] == pytest.approx(alone["objective"][0], rel=1e-4, abs=1e-4)
        scale = np.abs(alone["gradient"]).max() + 1e-12
        assert np.abs(together["gradient"][i] - alone["gradient"][0]).max() < 1e-4 * scale


def test_objectives_of_other_kinds_are_other_families() -> None:
    assert graph_key(obj.channel("fire4", 1)) != graph_key(obj.neuron("fire4", 1))
    assert graph_key(obj.channel("fire4", 1)) != graph_key(obj.channel("fire5", 1))
    assert graph_key(obj.l2("fire4")) != graph_key(2 * obj.l2("fire4"))
    assert graph_key(obj.guide("fire4", np.ones((256, 1, 1)))) != graph_key(obj.guide("fire4", np.zeros((256, 1, 1))))


def test_diversity_is_minus_the_mean_cosine_of_gram_matrices(squeezenet: Model, rocket: np.ndarray) -> None:
    batch = np.concatenate([to_batch(rocket[y : y + 80, x : x + 80]) for y, x in ((0, 0), (200, 100), (300, 400))])
    proto = build_objective_model(squeezenet, obj.diversity("fire3"))
    value = select("cpu").open(proto).run({"image": batch})["objective"]
    grams = []
    for picture in batch:
        a = features(squeezenet, "fire3", picture.transpose(1, 2, 0))[0].reshape(128, -1).astype(np.float64)
        grams.append((a @ a.T).ravel() / np.linalg.norm(a @ a.T))
    cosines = np.array(grams) @ np.array(grams).T
    np.testing.assert_allclose(value, -(cosines.sum(1) - 1) / 2, atol=1e-3)
    assert select("cpu").open(proto).run({"image": batch[:1]})["objective"] == pytest.approx(0, abs=1e-5)
    gradient = (
        select("cpu").open(build_gradient_model(squeezenet, obj.diversity("fire3"))).run({"image": batch})["gradient"]
    )
    ahead = select("cpu").open(proto).run({"image": batch + 0.5 * np.sign(gradient)})["objective"].sum()
    assert ahead > value.sum() + 0.25 * np.abs(gradient).sum()


def test_a_leaking_rectifier_lets_inactive_channels_start(squeezenet: Model) -> None:
    noise = Fourier((96, 96))(Fourier((96, 96)).start(np.random.default_rng(0))[None])[0]
    inactive = np.flatnonzero(
        features(squeezenet, "fire8", noise[0].transpose(1, 2, 0))[0].reshape(512, -1).max(1) == 0
    )
    goal = obj.channel("fire8", int(inactive[0]))
    assert not select("cpu").open(build_gradient_model(squeezenet, goal)).run({"image": noise})["gradient"].any()
    leaking = squeezenet.with_leaky_rectifiers(("fire8",))
    assert select("cpu").open(build_gradient_model(leaking, goal)).run({"image": noise})["gradient"].any()
    before, after = (features(m, "fire8", noise[0].transpose(1, 2, 0)) for m in (squeezenet, leaking))
    np.testing.assert_allclose(np.maximum(after, 0), before, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("rectifier", ["Clip", "Max", "Min"])
def test_what_holds_values_back_leaks_at_both_ends(rectifier: str, tmp_path: Path) -> None:
    bounds = {"Clip": ["low", "high"], "Max": ["low"], "Min": ["high"]}[rectifier]
    constants = {"low": np.array(-0.1, np.float32), "high": np.array(0.2, np.float32)}
    nodes = [*conv("x", "a")[:1], node(rectifier, ["a_before", *bounds], "out")]
    save(network(nodes, w_a=weights(8, 3, 3, 3), **{b: constants[b] for b in bounds}), tmp_path / "held.onnx")
    model = onnxdream.load_model(tmp_path / "held.onnx")
    picture = RNG.uniform(0, 255, (20, 20, 3)).astype(np.float32)
    x, held, leaking = (
        features(m, layer, picture)
        for m, layer in ((model, "a_before"), (model, "out"), (model.with_leaky_rectifiers(("out",), 0.1), "out"))
    )
    assert (x != held).any()
    np.testing.assert_allclose(leaking, held + 0.1 * (x - held), atol=1e-5)


@pytest.mark.parametrize(
    "layer", everyday(["head", "features", "block14/depthwise", "block15/depthwise", "block15/expand"], 4)
)
def test_filters_behind_a_relu6_start(efficientnet: Model, layer: str) -> None:
    goals = [obj.channel(layer, c) for c in range(8)]
    visualizer = Visualizer(efficientnet, size=(64, 64), steps=24)
    values = visualizer.measure(goals, visualizer(goals).pictures)
    assert (values > 0).sum() >= 6
    assert visualizer.find_inactive(goals, values) == list(np.flatnonzero(values == 0))


def test_a_visualisation_excites_its_channel_more_than_a_photograph(squeezenet: Model, rocket: np.ndarray) -> None:
    channels = [3, 60, 125, 200]  # 60 and 125 answer to nearly everything
    goals = [obj.channel("fire5", c) for c in channels]
    visualizer = Visualizer(squeezenet, size=(80, 80), steps=64)
    pictures = visualizer(goals).pictures
    assert pictures.shape == (4, 80, 80, 3)
    assert pictures.dtype == np.uint8
    reached = visualizer.measure(goals, pictures)
    photograph = onnxdream.activations(squeezenet, rocket, "fire5").mean((1, 2))[channels]
    assert (reached > 2 * photograph).all()
    # Each is for its own channel.
    crossed = visualizer.measure(goals, np.roll(pictures, 1, 0))
    assert (reached > 2 * crossed).all()
    np.testing.assert_array_equal(visualizer(goals).pictures, pictures)


def test_recipes_signs_and_starts(squeezenet: Model, rocket: np.ndarray) -> None:
    goal = obj.channel("fire3", 5)
    grey = np.full((1, 48, 48, 3), 128, np.uint8)
    for recipe in ("maco", "pixel"):
        visualizer = Visualizer(squeezenet, recipe=recipe, size=(48, 48), steps=40)
        pictures, begun = visualizer([goal]).pictures, visualizer.with_steps(1)([goal]).pictures
        assert visualizer.measure([goal], pictures) > 2 * visualizer.measure([goal], begun)
    visualizer = Visualizer(squeezenet.with_leaky_rectifiers(("fire3",)), size=(48, 48), steps=40)
    assert visualizer.measure([-goal], visualizer([-goal]).pictures) > visualizer.measure([-goal], grey)
    near = Visualizer(squeezenet, size=(48, 48), steps=1)([goal], start=rocket).pictures[0]
    small = resize(to_batch(rocket), (48, 48))[0].transpose(1, 2, 0)
    assert np.corrcoef(near.ravel(), small.ravel())[0, 1] > 0.9


def test_diverse_pictures_of_one_channel_differ(squeezenet: Model) -> None:
    from onnxdream.interpret.targets import VisualizationTarget, diverse_targets

    visualizer = Visualizer(squeezenet, size=(64, 64), steps=48)
    goal = obj.channel("fire4", 7)
    unlike = [w.objective for w in diverse_targets(visualizer, VisualizationTarget("7", goal), 3, weight=2)]
    measure = obj.diversity("fire4")
    apart, alike = (
        float(visualizer.measure([measure] * 3, visualizer(goals).pictures).mean()) for goals in (unlike, [goal] * 3)
    )
    assert apart > alike + 0.02


def test_flattened_places_have_one_size(tmp_path: Path) -> None:
    save(classifier(size=("N", 3, 48, 64)), tmp_path / "fixed.onnx")
    model = onnxdream.load_model(tmp_path / "fixed.onnx")
    assert [model.fixed_input_size([layer]) for layer in ("a", "flat", "out")] == [None, None, (48, 64)]
    assert [model.fixed_input_size([layer], channels=True) for layer in ("a", "flat")] == [None, (48, 64)]
    made = onnxdream.visualize(model, obj.channel("flat", 1500), size=(48, 64), steps=2)
    assert made.pictures.shape == (1, 48, 64, 3)
    with pytest.raises(PictureError, match="only pictures of 64x48"):
        onnxdream.visualize(model, obj.channel("flat", 1500), size=32, steps=2)
    nodes = [*conv("x", "a", strides=[8, 8]), node("Flatten", ["a"], "flat"), node("GlobalAveragePool", ["a"], "mean")]
    nodes.append(node("Flatten", ["mean"], "out"))
    save(network(nodes, outputs=("flat", "out"), rank=2, w_a=weights(2, 3, 3, 3)), tmp_path / "free.onnx")
    model = onnxdream.load_model(tmp_path / "free.onnx")
    assert model.fixed_input_size(["out"], channels=True) is None
    height, width = model.fixed_input_size(["flat"], channels=True) or (0, 0)
    photograph = RNG.uniform(0, 255, (40, 50, 3))
    assert onnxdream.activations(model, photograph, "flat").shape == (height // 8 * width // 8 * 2,)
    assert onnxdream.activations(model, photograph, "flat").shape == (model.layer("flat").channels,)


def test_large_pictures_are_climbed_a_few_at_a_time(squeezenet: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    goals = [obj.channel("fire4", c) for c in range(6)]
    together = Visualizer(squeezenet, size=(64, 64), steps=4)(goals).pictures
    steps: list[StepProgress] = []
    monkeypatch.setattr("onnxdream.interpret.visualizer._MEMORY_LIMIT", 8 * 2**20)
    few = Visualizer(squeezenet, size=(64, 64), steps=4, threads=4)
    finished: dict[int, np.ndarray] = {}
    made = few(goals, on_step=steps.append, on_picture=finished.__setitem__)
    np.testing.assert_array_equal(made.pictures, together)
    assert not made.cancelled
    assert max(step.pictures for step in steps) == 1
    assert sorted(finished) == list(range(6))
    np.testing.assert_array_equal(finished[3], together[3])


def test_a_gradient_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    nodes = [*conv("x", "a"), node("Sqrt", ["a_before"], "out")]
    save(network(nodes, w_a=weights(8, 3, 3, 3)), tmp_path / "root.onnx")
    with pytest.raises(ModelError, match=r"layer out of root \(operator Sqrt\) gives NaN"):
        onnxdream.visualize(str(tmp_path / "root.onnx"), obj.channel("out", 1), size=32, steps=3)


def test_diverse_pictures_from_one_start_differ(squeezenet: Model, rocket: np.ndarray) -> None:
    goals = [obj.channel("fire3", 7) + obj.diversity("fire3")] * 2
    first, second = Visualizer(squeezenet, size=(48, 48), steps=4)(goals, start=rocket).pictures.astype(np.float32)
    assert 1 < np.abs(first - second).mean() < 20


def test_stopping_and_progress(squeezenet: Model) -> None:
    seen = []

    def on_step(progress) -> bool:
        seen.append((progress.step, progress.pictures))
        return progress.step < 3

    made = onnxdream.visualize(squeezenet, obj.channel("conv1", 1), size=32, steps=50, on_step=on_step)
    assert seen == [(1, 1), (2, 1), (3, 1)]
    assert made.cancelled
    reached = onnxdream.visualize(squeezenet, obj.channel("conv1", 1), size=32, steps=3)
    assert not reached.cancelled
    np.testing.assert_array_equal(made.pictures, reached.pictures)


def test_what_cannot_be_is_said(squeezenet: Model) -> None:
    with pytest.raises(LayerError, match="channels 0 to 255"):
        onnxdream.visualize(squeezenet, [obj.channel("fire5", 1), obj.channel("fire5", 256)], size=64)
    with pytest.raises(PictureError, match="at least"):
        onnxdream.visualize(squeezenet, obj.channel("fire8", 1), size=16)
    for options, says in (
        ({"recipe": "soup"}, "fourier, maco, pixel"),
        ({"steps": 0}, "steps is 0"),
        ({"size": 5}, "5x5"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(OptionError, match=says):
            onnxdream.visualize(squeezenet, obj.channel("fire5", 1), **options)


def test_activations_are_the_layers(squeezenet: Model, rocket: np.ndarray) -> None:
    fire5 = onnxdream.activations("squeezenet1_1", rocket, "fire5", longest=200)
    assert fire5.shape[0] == 256
    assert fire5.shape[2] > fire5.shape[1]
    np.testing.assert_array_equal(fire5, features(squeezenet, "fire5", rocket, longest=200)[0])
    assert onnxdream.activations(squeezenet, rocket, "logits").shape == (1000,)


def test_tokens_become_the_grid_they_were_cut_from() -> None:
    tokens = np.arange(50, dtype=np.float32).reshape(10, 5)
    assert _tokens_to_grid(tokens).shape == (5, 3, 3)
    assert _tokens_to_grid(tokens)[0, 0, 0] == 5  # behind the class token
    assert _tokens_to_grid(tokens[:9])[2, 1, 0] == tokens[3, 2]
    assert _tokens_to_grid(tokens[:7]).shape == (5, 1, 7)


def test_grids_for_notebooks(rocket: np.ndarray) -> None:
    tiles = [rocket[:40, :60]] * 5
    grid = onnxdream.show(tiles, ["a", "b", "c", "d", "a name much too long for its place"], columns=3)
    assert hasattr(grid, "_repr_png_")
    assert grid.width == 4 + 3 * 64
    np.testing.assert_array_equal(np.asarray(grid)[4:44, 4:64], tiles[0])
    with pytest.raises(OptionError, match="2 labels for 5"):
        onnxdream.show(tiles, ["a", "b"])
    with pytest.raises(OptionError, match="no pictures"):
        onnxdream.show([])
    activations = RNG.normal(0, 9, (3, 13, 13)).astype(np.float32)
    activations[0, 0, 0] = np.nan
    maps = np.asarray(onnxdream.show(activations, columns=3))
    assert maps.shape == (136, 4 + 3 * 132, 3)
    assert maps.max() > 200
    for wrong in (tiles[0].astype(np.float32)[None], activations[:, 0, 0], tiles[0][None].astype(np.int64)):
        with pytest.raises(OptionError, match="uint8"):
            onnxdream.show(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "layer"), [("squeezenet", "fire8"), ("efficientnet", "block5")])
def test_visualisations_exceed_photographs_and_hold_under_moves(
    network: str, layer: str, request: pytest.FixtureRequest
) -> None:
    """Textures and animals, not noise: plain ascent on pixels reaches as much but loses it when the picture turns."""
    model: Model = request.getfixturevalue(network)
    folder = Path(skimage.__file__).parent / "data"
    files = [folder / f"{name}.png" for name in ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel")]
    goals = [obj.channel(layer, c) for c in range(4)]
    natural = record_top_activations(model, layer, [read_center_crop(f, (112, 112)) for f in files]).means[:4].max(1)
    left = {}
    for recipe in ("fourier", "pixel"):
        visualizer = Visualizer(model, recipe=recipe, size=(112, 112), steps=96)
        pictures = visualizer(goals).pictures
        reached = visualizer.measure(goals, pictures)
        assert (reached > natural).all()
        batch = pictures.transpose(0, 3, 1, 2).astype(np.float32)
        moves = [
            AffineWarp((112, 112), 1, 0, (8, 0)),
            AffineWarp((112, 112), 1, 0, (0, -8)),
            AffineWarp((112, 112), 1, math.radians(5), (0, 0)),
        ]
        moved = [np.rint(move(batch)).astype(np.uint8).transpose(0, 2, 3, 1) for move in moves]
        left[recipe] = np.min([visualizer.measure(goals, m) for m in moved], axis=0) / reached
    assert (left["fourier"] > 0.5).all()
    assert left["fourier"].mean() > left["pixel"].mean()
