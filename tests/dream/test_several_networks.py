"""Several networks in one dream: they take turns in each step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from helpers import small_networks as small
from helpers.breadth import everyday
from helpers.command_line import onnxdream
from onnxdream import Dreamer, build_step_model, create_video_dreamer
from onnxdream import objectives as obj
from onnxdream.dream.build import build_dreamer
from onnxdream.engines.select import select
from onnxdream.errors import LayerError, OptionError, PictureError
from onnxdream.images import read_settings, to_batch
from onnxdream.networks.model import Model, load_model
from onnxdream.settings import Settings, layered
from onnxdream.video.job.identity import identify_inputs

QUICK = {"octaves": 2, "steps": 2, "jitter": 6, "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small networks, one of which takes pictures of one size."""
    folder = tmp_path_factory.mktemp("networks")
    onnx.save(small.plain(), folder / "one.onnx")
    nodes = [*small.conv("x", "b", strides=[2, 2]), *small.conv("b", "last")]
    proto = small.network(
        nodes, outputs=["last"], w_b=small.weights(5, 3, 3, 3, seed=1), w_last=40 * small.weights(4, 5, 3, 3, seed=2)
    )
    onnx.save(proto, folder / "two.onnx")
    onnx.save(small.classifier(size=("N", 3, 48, 64)), folder / "fixed.onnx")
    return folder


@pytest.fixture(scope="module")
def one(folder: Path) -> Model:
    return load_model(folder / "one.onnx")


@pytest.fixture(scope="module")
def two(folder: Path) -> Model:
    return load_model(folder / "two.onnx")


@pytest.fixture(scope="module")
def photo(rocket: np.ndarray) -> np.ndarray:
    return cv2.resize(rocket, (96, 64), interpolation=cv2.INTER_AREA)


def test_a_step_is_one_with_each_network_in_turn(one: Model, two: Model, photo: np.ndarray) -> None:
    goals = [(one, 2.0 * obj.l2("out")), (two, obj.l2("b") - 1.5 * obj.l2("last"))]
    shaping = {"bands": (0.3, 1.0, 1.0), "colors": "vivid", "headroom": 48.0}
    dreamer = Dreamer(*goals[0], also=goals[1:], octaves=1, steps=1, step_size=3.0, jitter=0, device="cpu", **shaping)
    image, objectives = to_batch(photo), []
    for (model, goal), share in zip(goals, (2 / 2.5, 1.5 / 2.5), strict=True):  # 2 and 1.5, their squares summing to 1
        feeds = {"image": image, "step_size": np.array(3.0 * share, np.float32), "shift": np.zeros(2, np.int64)}
        result = select("cpu").open(build_step_model(model, goal, **shaping)).run(feeds)
        image, objectives = result["dreamed"], [*objectives, float(result["objective"][0])]
    seen: list[float] = []
    dreamed, steps, _ = dreamer.ascend(to_batch(photo), on_step=lambda progress: seen.append(progress.objective))
    np.testing.assert_allclose(dreamed, image, atol=1e-3)
    assert steps == 1
    assert min(objectives) < 0  # so that there is no geometric mean
    assert seen == pytest.approx([np.average(objectives, weights=[2.0, 1.5])], rel=1e-5)


def test_the_objective_is_the_weighted_geometric_mean(one: Model, two: Model, photo: np.ndarray) -> None:
    first, second = Dreamer(one, obj.l2("out"), **QUICK), Dreamer(two, 0.5 * obj.l2("last"), **QUICK)
    both = Dreamer(one, first.objective, also=[(two, second.objective)], **QUICK)
    batch = to_batch(photo)
    wanted = (first.measure(batch) * second.measure(batch) ** 0.5) ** (1 / 1.5)
    assert both.measure(batch) == pytest.approx(wanted, rel=1e-5)
    assert both.goal == "one: l2(out); two: 0.5*l2(last)"
    dream = both.dream(photo)
    for alone in (first, second):
        assert alone.measure(to_batch(dream.exact)) > alone.measure(batch)


def test_a_network_of_no_weight_changes_nothing(one: Model, two: Model, photo: np.ndarray) -> None:
    alone = Dreamer(one, obj.l2("out"), **QUICK).dream(photo)
    beside = Dreamer(one, obj.l2("out"), also=[(two, 0 * obj.l2("last"))], **QUICK).dream(photo)
    np.testing.assert_array_equal(beside.exact, alone.exact)


@pytest.mark.parametrize("shaping", everyday([{"bands": (0.3, 1.0, 1.0), "colors": "vivid", "headroom": 48.0}, {}], 2))
def test_tiles_and_masks(one: Model, two: Model, rocket: np.ndarray, shaping: dict[str, object]) -> None:
    also = [(two, obj.l2("last"))]
    options = {"octaves": 1, "steps": 1, "device": "cpu", **shaping}
    mask = np.zeros(rocket.shape[:2], np.float32)
    mask[:, 300:] = 1
    whole = Dreamer(one, obj.l2("out"), also=also, **options)
    tiled = Dreamer(one, obj.l2("out"), also=also, max_memory=64 << 20, **options)
    assert tiled._tiling((1, 3, *rocket.shape[:2]), reserved_bytes=0) is not None
    wanted, found = (dreamer.dream(rocket, mask=mask).exact for dreamer in (whole, tiled))
    np.testing.assert_array_equal(found[:, :300], rocket[:, :300])
    change = np.abs(wanted - rocket)[:, 300:].mean()
    assert change > 1
    assert np.abs(found - wanted).mean() < 0.05 * change


def test_sizes_suit_all_networks(folder: Path, one: Model, two: Model, photo: np.ndarray) -> None:
    fixed = load_model(folder / "fixed.onnx")
    both = Dreamer(one, also=[(fixed, obj.logit("out", 3))], **QUICK)
    assert both.fixed_input_size == (48, 64)
    with pytest.raises(PictureError, match="out works only on pictures of 64x48, not 96x64"):
        both.dream(photo)
    assert both.dream(cv2.resize(photo, (64, 48))).steps == 2
    nodes = [
        *small.conv("x", "a", strides=[4, 4]),
        small.node("Flatten", ["a"], "f"),
        small.node("Gemm", ["f", "w"], "o"),
    ]
    onnx.save(
        small.network(nodes, size=("N", 3, 32, 32), outputs=["o"], rank=2, w_a=small.weights(8, 3, 3, 3),
                      w=small.weights(512, 4)),
        folder / "other.onnx",
    )  # fmt: skip
    with pytest.raises(OptionError, match="never take the same picture: out of fixed 64x48, o of other 32x32"):
        Dreamer(fixed, obj.logit("out", 3), also=[(load_model(folder / "other.onnx"), obj.logit("o", 1))])


def test_another_objective_is_the_first_networks(one: Model, two: Model) -> None:
    both = Dreamer(one, obj.l2("out"), also=[(two, obj.l2("last"))], octaves=3)
    changed = both.with_objective(obj.mean("a"))
    assert (changed.goal, changed.octaves) == ("one: mean(a); two: l2(last)", 3)


class TestSettings:
    def test_they_name_networks_with_their_layers(self, folder: Path) -> None:
        settings = layered({"model": str(folder / "one.onnx"), "also": [[str(folder / "two.onnx"), "b:0.5", "last"]]})
        assert build_dreamer(settings, max_memory=1 << 30).goal == "one: l2(out_before); two: 0.5*l2(b) + l2(last)"
        assert layered({}, like=json.loads(json.dumps(settings.stored()))) == settings
        assert layered({"also": ["two"]}).also == (("two",),)

    def test_who_names_a_network_names_all(self) -> None:
        both = layered({"layers": "fire5", "also": [["efficientnet_lite0", "block5"]]})
        assert both.updated({"layers": "fire8"}).also == both.also
        assert both.updated({"model": both.model}) == dataclasses.replace(both, also=())
        old = {"version": "0.1", "model": "squeezenet1_1", "layers": ["fire8"]}  # as it was when there was but one
        settings = layered({}, like=old)
        assert (settings.model, settings.layers, settings.also) == ("squeezenet1_1", ("fire8",), ())

    @pytest.mark.parametrize("wrong", ["efficientnet_lite0", [[]], [["a", ""]], [3], [["a", 0.5]]])
    def test_what_is_no_list_of_networks_is_refused(self, wrong: object) -> None:
        with pytest.raises(OptionError, match=r"^also is .*"):
            layered({"also": wrong})

    def test_a_layer_of_the_other_network(self, folder: Path) -> None:
        settings = Settings(model=str(folder / "one.onnx"), layers=("b:0.5",), also=((str(folder / "two.onnx"),),))
        with pytest.raises(LayerError, match=r"one has no layer b, but two has; .*: -m two -l b:0.5$"):
            build_dreamer(settings, max_memory=1 << 30)
        with pytest.raises(LayerError, match="two has no layer 'lust'; did you mean last"):
            build_dreamer(
                dataclasses.replace(settings, layers=(), also=((*settings.also[0], "lust"),)), max_memory=1 << 30
            )


ORDERS = [
    ("-m one -l a -m two -l b:0.5", "one: l2(a); two: 0.5*l2(b)"),
    ("-la -m two --layer=b", "squeezenet: l2(a); two: l2(b)"),
    ("-m two -l b -l last -m one", "two: l2(b) + l2(last); one: l2(out_before)"),
    ("-l a -mone", "l2(a)"),
    ("--model one --seed 3 -l out -l a:0.1", "l2(out) + 0.1*l2(a)"),
    ("-m one --model=one -la", "one: l2(out_before); one: l2(a)"),
]


@pytest.mark.parametrize(("given", "goal"), everyday(ORDERS, 3))
def test_layers_belong_to_the_network_before_them(
    folder: Path, tmp_path: Path, photo: np.ndarray, given: str, goal: str
) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), photo)
    default = tmp_path / "default"
    default.mkdir()
    for name in ("one", "two"):
        (default / f"{name}.onnx").write_bytes((folder / f"{name}.onnx").read_bytes())
    (default / "squeezenet1_1.onnx").write_bytes((folder / "one.onnx").read_bytes())  # in place of the default one
    arguments = given.split()
    environment = {"ONNXDREAM_MODELS": str(default)}
    options = ["--steps", 1, "--octaves", 1, "-q", "--json"]
    result = onnxdream("image", "in.png", "-o", "out.png", *arguments, *options, folder=tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["objective"] == goal.replace("squeezenet", "squeezenet1_1")
    again = onnxdream("image", "in.png", "-o", "b.png", "--like", "out.png", "-q", folder=tmp_path, **environment)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "out.png").read_bytes()
    assert "also" in read_settings(tmp_path / "out.png")


def test_an_exported_file_holds_one_network() -> None:
    result = onnxdream("export", "squeezenet1_1", "-l", "fire3", "-m", "efficientnet_lite0")
    assert result.returncode == 2
    assert "a file holds the step of one network, squeezenet1_1; export efficientnet_lite0 by itself" in result.stderr


class TestVideo:
    def test_all_networks_decide_whether_a_job_goes_on(self, one: Model, two: Model) -> None:
        alone = Dreamer(one)
        prints = [identify_inputs([d]).network for d in (alone, Dreamer(one, also=[(two, None)]), Dreamer(two))]
        assert len(set(prints)) == 3
        assert identify_inputs([alone, Dreamer(one)]).network == prints[0]

    def test_a_film_dreams_with_both(self, folder: Path, photo: np.ndarray) -> None:
        options = {"octaves": 2, "steps": 4, "device": "cpu", "method": "flow"}
        dreamers = [
            create_video_dreamer("out", model=str(folder / "one.onnx"), also=also, **options)  # type: ignore[arg-type]
            for also in ([], [[str(folder / "two.onnx"), "last"]])
        ]
        frames = [np.roll(photo, n, 1) for n in range(4)]
        alone, both = ([dreamer.apply(frame) for frame in frames] for dreamer in dreamers)
        second = Dreamer(load_model(folder / "two.onnx"), obj.l2("last"), device="cpu")
        for ours, theirs in zip(both, alone, strict=True):
            assert second.measure(to_batch(ours[..., ::-1])) > second.measure(to_batch(theirs[..., ::-1]))
        assert dreamers[1].memory is not None
        assert dreamers[1].memory.goal == "one: l2(out); two: l2(last)"
