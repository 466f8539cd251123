"""The dream itself: reproducible, in range, climbing, cancellable, on any size a network can take."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import skimage.data

from helpers import small_networks as small
from helpers.breadth import everyday
from helpers.notes import noted, notes
from onnxdream import Dreamer, load_model
from onnxdream import objectives as obj
from onnxdream.dream.build import build_dreamer, build_objective
from onnxdream.dream.dreamer import Dream, Progress, features
from onnxdream.errors import LayerError, ModelError, NoGradientError, OptionError, PictureError
from onnxdream.images import Picture, to_batch
from onnxdream.networks import registry
from onnxdream.networks.model import Model
from onnxdream.picture_files import dream_picture
from onnxdream.settings import PRESETS, Settings, layered, parse_channels, parse_layer


def scaled(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def photo(rocket: np.ndarray) -> np.ndarray:
    return scaled(rocket, 160, 107)


def quick(model: Model, objective: obj.Objective | None = None, **options: object) -> Dreamer:
    return Dreamer(model, objective, **{"octaves": 2, "steps": 2, "device": "cpu", **options})  # type: ignore[arg-type]


def digest(dream: Dream) -> str:
    return hashlib.sha256(dream.exact.tobytes()).hexdigest()


class TestReproducible:
    def test_same_seed_same_bytes(self, squeezenet: Model, photo: np.ndarray) -> None:
        dreamer = quick(squeezenet, obj.l2("fire6"))
        first = dreamer.dream(photo)
        other = dreamer.dream(photo[::-1])
        assert digest(dreamer.dream(photo)) == digest(first)  # whatever was dreamed in between
        assert digest(quick(squeezenet, obj.l2("fire6")).dream(photo)) == digest(first)
        assert digest(other) != digest(first)
        assert digest(quick(squeezenet, obj.l2("fire6"), seed=1).dream(photo)) != digest(first)
        np.testing.assert_array_equal(first.picture, np.rint(first.exact))

    def test_same_seed_same_bytes_in_another_process(self, photo: np.ndarray, tmp_path: Path) -> None:
        np.save(tmp_path / "photo.npy", photo)
        code = (
            "import hashlib, numpy as np, onnxdream\n"
            "from onnxdream import objectives as obj\n"
            "model = onnxdream.load_model('efficientnet_lite0')\n"
            "dreamer = onnxdream.Dreamer(model, obj.l2('block5'), octaves=2, steps=2)\n"
            "dream = dreamer.dream(np.load('photo.npy'))\n"
            "print(hashlib.sha256(dream.exact.tobytes()).hexdigest())"
        )
        ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert ran.stdout == digest(quick(load_model("efficientnet_lite0"), obj.l2("block5")).dream(photo)) + "\n"

    def test_a_batch_dreams_like_one_picture_each(self, squeezenet: Model, photo: np.ndarray) -> None:
        dreamer = quick(squeezenet, obj.l2("fire6"))
        pictures = np.concatenate([to_batch(photo), to_batch(photo[:, ::-1])])
        both, done, cancelled = dreamer.ascend(pictures)
        assert (done, cancelled) == (4, False)
        for index in (0, 1):
            alone, _, _ = dreamer.ascend(pictures[index : index + 1])
            assert np.abs(both[index] - alone[0]).mean() < 0.05


@pytest.mark.parametrize("name", everyday(["squeezenet1_1", "efficientnet_lite0"], 2))
def test_the_objective_rises_on_every_recommended_layer(name: str, photo: np.ndarray) -> None:
    model = load_model(name)
    for layer in model.card.recommended:
        dream = quick(model, obj.l2(layer), steps=4).dream(photo)
        assert dream.objective_after > 1.1 * dream.objective_before, layer
        assert np.isfinite(dream.exact).all()
        assert dream.exact.min() >= 0
        assert dream.exact.max() <= 255
        assert dream.steps == 8
        assert dream.provider == "CPUExecutionProvider"
        assert not dream.cancelled


def test_more_steps_climb_higher(squeezenet: Model, photo: np.ndarray) -> None:
    heights = [quick(squeezenet, obj.l2("fire6"), steps=steps).dream(photo).objective_after for steps in (0, 2, 6)]
    assert heights == sorted(heights)


def test_a_step_moves_a_pixel_by_its_size_on_average(squeezenet: Model) -> None:
    grey = np.clip(scaled(skimage.data.coffee(), 160, 120), 60, 190).astype(
        np.float32
    )  # far from the ends of the range
    dream = quick(squeezenet, octaves=1, steps=1, step_size=3.0).dream(grey)
    assert np.abs(dream.exact - grey).mean() == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize("options", [{"steps": 0}, {"step_size": 0.0}, {"steps": 0, "octaves": 1}])
def test_nothing_dreamed_gives_the_picture_back(
    squeezenet: Model, photo: np.ndarray, options: dict[str, float]
) -> None:
    dream = quick(squeezenet, **options).dream(photo)
    np.testing.assert_array_equal(dream.picture, photo)
    assert dream.objective_after == pytest.approx(dream.objective_before, rel=1e-5)
    assert dream.steps == 0 if options.get("steps") == 0 else 4


def test_a_negative_weight_and_a_negative_step_go_down(squeezenet: Model, photo: np.ndarray) -> None:
    up = quick(squeezenet, obj.l2("fire4"), octaves=1).dream(photo)
    for down in (
        quick(squeezenet, -obj.l2("fire4"), octaves=1).dream(photo),
        quick(squeezenet, obj.l2("fire4"), octaves=1, step_size=-1.5).dream(photo),
    ):
        assert abs(down.objective_after) < abs(down.objective_before) < up.objective_after


def test_several_layers_pull_together(squeezenet: Model, photo: np.ndarray) -> None:
    both = obj.l2("fire4") + 0.5 * obj.l2("fire8")
    before = [quick(squeezenet, o).measure(to_batch(photo)) for o in (obj.l2("fire4"), obj.l2("fire8"))]
    dream = quick(squeezenet, both, steps=4).dream(photo)
    assert dream.objective_before == pytest.approx(before[0] + 0.5 * before[1], rel=1e-5)
    assert dream.objective_after > dream.objective_before
    assert quick(squeezenet, both).smallest == quick(squeezenet, obj.l2("fire8")).smallest


def test_a_guide_pulls_towards_its_features(squeezenet: Model, photo: np.ndarray) -> None:
    guides = {name: scaled(getattr(skimage.data, name)(), 128, 96) for name in ("coffee", "chelsea")}
    dreams = {}
    for name, guide in guides.items():
        objective = obj.guide("fire6", features(squeezenet, "fire6", guide))
        dreams[name] = quick(squeezenet, objective, steps=4).dream(photo)
        assert dreams[name].objective_after > 1.1 * dreams[name].objective_before
    assert np.abs(dreams["coffee"].exact - dreams["chelsea"].exact).mean() > 1
    assert features(squeezenet, "fire6", guides["coffee"][:20, :500]).shape[:2] == (1, 384)  # enlarged to fit


class TestOctaves:
    def test_sizes(self, squeezenet: Model) -> None:
        dreamer = quick(squeezenet, obj.l2("fire4"), octaves=4)
        assert dreamer.octave_sizes((213, 320)) == [(78, 117), (109, 163), (152, 229), (213, 320)]
        assert quick(squeezenet, obj.l2("fire4"), octaves=1).octave_sizes((213, 320)) == [(213, 320)]

    def test_those_that_do_not_fit_are_left_out_with_a_warning(self, squeezenet: Model, photo: np.ndarray) -> None:
        dreamer = quick(squeezenet, obj.l2("fire8"), octaves=6)
        low = dreamer.smallest
        with noted(rf"2 of 6 octaves left out: fire8 needs {low[1]}x{low[0]}"):
            sizes = dreamer.octave_sizes((107, 160))
        assert sizes[0] == (39, 58)
        assert all(h >= low[0] and w >= low[1] for h, w in sizes)
        with notes() as told:
            assert dreamer.dream(photo).steps == 8
            quick(squeezenet, obj.l2("fire8"), octaves=4).octave_sizes((107, 160))
        assert not told

    @pytest.mark.parametrize(("name", "layer"), [("squeezenet1_1", "fire8"), ("efficientnet_lite0", "block10")])
    def test_the_smallest_picture_is_the_smallest(self, name: str, layer: str, photo: np.ndarray) -> None:
        dreamer = quick(load_model(name), obj.l2(layer), octaves=1)
        height, width = dreamer.smallest
        dream = dreamer.dream(photo[:height, :width])
        assert np.isfinite(dream.exact).all()
        if (height, width) == (1, 1):
            return
        for h, w in ((height - 1, width), (height, width - 1)):
            message = rf"{w}x{h} is too small for {layer}, which needs at least {width}x{height}; enlarge it or choose"
            with pytest.raises(PictureError, match=message):
                dreamer.dream(photo[:h, :w])

    @pytest.mark.parametrize("name", everyday(["efficientnet_lite0", "squeezenet1_1"], 2))
    def test_one_pixel(self, name: str) -> None:
        model = load_model(name)
        pixel = np.full((1, 1, 3), 99, np.uint8)
        worked = []
        for layer in model.card.recommended:
            dreamer = quick(model, obj.l2(layer))
            if dreamer.smallest == (1, 1):
                worked.append(layer)
                assert np.isfinite(dreamer.dream(pixel).exact).all()
            else:
                with pytest.raises(PictureError, match="1x1 is too small"):
                    dreamer.dream(pixel)
        assert bool(worked) == (name == "efficientnet_lite0")  # its padding lets it look at a single pixel

    @pytest.mark.parametrize(("name", "layer"), [("squeezenet1_1", "fire6"), ("efficientnet_lite0", "block6")])
    def test_odd_sizes(self, name: str, layer: str, rocket: np.ndarray) -> None:
        dreamer = quick(load_model(name), obj.l2(layer), octaves=3)
        for height, width in ((31, 31), (33, 57), (57, 33), (200, 32), (32, 301), (101, 103)):
            picture = rocket[:height, :width]
            dream = dreamer.dream(picture)
            assert dream.picture.shape == picture.shape
            assert np.isfinite(dream.exact).all()
            assert np.abs(dream.exact - picture).mean() > 0.5


def test_flat_pictures_do_not_turn_into_nan(squeezenet: Model) -> None:
    dreamer, dead = quick(squeezenet, obj.l2("fire4")), quick(squeezenet, 0 * obj.l2("fire4"))
    for colour in (0, 117, 255):
        flat = np.full((64, 80, 3), colour, np.uint8)
        assert np.isfinite(dreamer.dream(flat).exact).all()
        np.testing.assert_array_equal(dead.dream(flat).picture, colour)


@pytest.mark.parametrize("smooth", everyday([1.0, 0.0], 2))
def test_a_mask_keeps_the_rest(squeezenet: Model, photo: np.ndarray, smooth: float) -> None:
    mask = np.zeros(photo.shape[:2], np.float32)
    mask[:, :60] = 1
    dreamer = quick(squeezenet, obj.l2("fire4"), smooth=smooth)
    dream = dreamer.dream(photo, mask=mask)
    assert np.abs(dream.exact[:, :60] - photo[:, :60]).mean() > 1
    np.testing.assert_allclose(dream.exact[:, 64:], photo[:, 64:], atol=1e-3)
    small_mask = np.zeros((2, 4))
    small_mask[:, :2] = 1
    stretched = dreamer.dream(photo, mask=small_mask)
    assert np.abs(stretched.exact[:, 120:] - photo[:, 120:]).mean() < 0.05 * np.abs(stretched.exact - photo).mean()
    np.testing.assert_array_equal(dreamer.dream(photo, mask=np.zeros((1, 1))).picture, photo)
    np.testing.assert_array_equal(dreamer.dream(photo, mask=np.ones((3, 3))).picture, dreamer.dream(photo).picture)
    for bad in (np.ones((5, 5, 3)), np.full((5, 5), np.nan), np.ones((0, 5))):
        with pytest.raises(PictureError, match=r"a mask must be \[H,W\]"):
            dreamer.dream(photo, mask=bad)


def test_keep_colors_keeps_the_chroma(squeezenet: Model, rocket: np.ndarray) -> None:
    source = scaled(rocket, 160, 107).astype(np.float32)
    dreamer = quick(squeezenet, obj.l2("fire6"), steps=4, colors="free")
    kept, _ = dream_picture(dreamer, Picture(source), Settings(keep_colors=True))
    plain, _ = dream_picture(dreamer, Picture(source), Settings())

    def chroma_change(rgb: np.ndarray) -> tuple[float, float]:
        a, b = (cv2.cvtColor(p / np.float32(255), cv2.COLOR_RGB2LAB)[:, :, 1:] for p in (rgb, source))
        shown = (rgb.min(2) > 1) & (rgb.max(2) < 254)
        return float(np.abs(a - b)[shown].max()), float(np.abs(a - b).mean())

    assert chroma_change(kept.rgb)[0] < 1.5
    assert chroma_change(kept.rgb)[1] < 0.25 * chroma_change(plain.rgb)[1]
    assert np.abs(kept.rgb - source).mean() > 1


class TestProgress:
    def test_it_is_reported_after_every_step(self, squeezenet: Model, photo: np.ndarray) -> None:
        seen: list[Progress] = []
        pictures = []

        def note(progress: Progress) -> None:
            seen.append(progress)
            pictures.append(progress.picture())

        dreamer = quick(squeezenet, obj.l2("fire6"), octaves=3, steps=4)
        dream = dreamer.dream(photo, on_step=note)
        assert len(seen) == 12 == dream.steps
        assert [(p.octave, p.step) for p in seen] == [(o, s) for o in range(3) for s in range(4)]
        assert {(p.octaves, p.steps) for p in seen} == {(3, 4)}
        assert [p.size for p in seen[::4]] == dreamer.octave_sizes(photo.shape[:2])
        for progress, picture in zip(seen, pictures, strict=True):
            assert picture.shape == (1, *progress.size, 3)
            assert picture.dtype == np.uint8
        np.testing.assert_array_equal(pictures[-1][0], dream.picture)
        assert seen[3].objective > seen[0].objective
        assert digest(dreamer.dream(photo)) == digest(dream)  # watching changes nothing

    def test_false_stops_it_there(self, squeezenet: Model, photo: np.ndarray) -> None:
        dreamer = quick(squeezenet, obj.l2("fire6"), octaves=3, steps=2)
        for after in (1, 3, 6):
            told: list[Progress] = []

            def stop(progress: Progress, told: list[Progress] = told, after: int = after) -> bool:
                told.append(progress)
                return len(told) < after

            dream = dreamer.dream(photo, on_step=stop)
            assert (dream.cancelled, dream.steps, len(told)) == (True, after, after)
            assert dream.picture.shape == photo.shape
            assert np.isfinite(dream.exact).all()
            assert 0.3 < np.abs(dream.exact - photo).mean() < 20

    def test_an_error_in_the_callback_comes_out(self, squeezenet: Model, photo: np.ndarray) -> None:
        def fail(progress: Progress) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            quick(squeezenet).dream(photo, on_step=fail)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"octaves": 0}, "octaves is 0; it must be between 1 and 64"),
        ({"octaves": 10**9}, "octaves is 1000000000"),
        ({"octave_scale": 1.0}, "octave_scale is 1.0; it must be above 1"),
        ({"octave_scale": float("nan")}, "octave_scale is nan"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": 10**12}, "steps is 1000000000000"),
        ({"step_size": float("inf")}, "step_size is inf"),
        ({"jitter": -1}, "jitter is -1"),
        ({"jitter": 2**70}, "jitter is"),
        ({"smooth": -0.1}, "smooth is -0.1"),
        ({"seed": -1}, "seed is -1"),
        ({"max_memory": 1000}, "max_memory is 1000; it must be at least 64 MiB"),
        ({"threads": -1}, "threads is -1"),
        ({"device": "toaster"}, "unknown device 'toaster'; devices are auto, cuda"),
    ],
)
def test_options_out_of_range(squeezenet: Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        quick(squeezenet, **options)


def test_huge_jitter_and_smoothing_are_fine(squeezenet: Model, photo: np.ndarray) -> None:
    dream = quick(squeezenet, jitter=1000, smooth=16.0).dream(photo)
    assert dream.objective_after > dream.objective_before


class TestFixedSize:
    """Networks whose fully connected layer fixes the picture's size."""

    @pytest.fixture(params=[(1, 3, 48, 64), ("N", 3, 48, 64), (1, 3, "H", "W")], ids=str)
    def model(self, request: pytest.FixtureRequest, tmp_path: Path) -> Model:
        onnx.save(small.classifier(size=request.param), tmp_path / "fixed.onnx")
        if "H" in request.param:
            card = '{"preprocessing": {"channels": "RGB", "mean": [0,0,0], "std": [1,1,1]}, "size": [48, 64]}'
            (tmp_path / "fixed.json").write_text(card)
        return load_model(tmp_path / "fixed.onnx")

    def test_layers_before_it_take_any_size(self, model: Model, photo: np.ndarray) -> None:
        dream = quick(model, obj.l2("a")).dream(photo)
        assert dream.picture.shape == photo.shape
        assert dream.objective_after > dream.objective_before
        assert model.default_layer() == "a"

    def test_layers_behind_it_take_that_size(self, model: Model, photo: np.ndarray) -> None:
        assert model.output_layer() == "out"
        dreamer = quick(model, obj.logit("out", 3), octaves=4, steps=3, jitter=0)
        assert dreamer.fixed_input_size == (48, 64)
        with noted("3 of 4 octaves left out: out needs 64x48"):
            dream = dreamer.dream(scaled(photo, 64, 48))
        assert dream.objective_after > dream.objective_before
        with pytest.raises(PictureError, match=r"out works only on pictures of 64x48, not 160x107; resize the picture"):
            dreamer.dream(photo)

    def test_a_size_that_nothing_fits_is_refused(self, tmp_path: Path) -> None:
        nodes = [*small.conv("x", "a"), small.node("Flatten", ["a"], "f"), small.node("Gemm", ["f", "w_fc"], "out")]
        proto = small.network(
            nodes, size=("N", 3, "H", "W"), w_a=small.weights(8, 3, 3, 3), w_fc=small.weights(777, 10), rank=2
        )
        onnx.save(proto, tmp_path / "a.onnx")
        with pytest.raises(ModelError, match="the shapes in its graph do not match"):
            load_model(tmp_path / "a.onnx")


class TestOtherNetworks:
    def test_grey_input(self, tmp_path: Path, photo: np.ndarray) -> None:
        proto = small.network([*small.conv("x", "out")], size=("N", 1, "H", "W"), w_out=small.weights(4, 1, 3, 3))
        onnx.save(proto, tmp_path / "grey.onnx")
        model = load_model(tmp_path / "grey.onnx")
        assert model.card.assumed
        assert model.card.preprocessing.channels == "L"
        dream = quick(model, obj.l2("out")).dream(photo)
        assert dream.objective_after > dream.objective_before

    def test_a_layer_named_like_a_weight(self, tmp_path: Path, photo: np.ndarray) -> None:
        onnx.save(
            small.network(
                [*small.conv("x", "a"), *small.conv("a", "net/Relu:0")],
                outputs=["net/Relu:0"],
                **{"w_a": small.weights(4, 3, 3, 3), "w_net/Relu:0": small.weights(4, 4, 3, 3)},
            ),
            tmp_path / "tf.onnx",
        )
        settings = Settings(model=str(tmp_path / "tf.onnx"), layers=("net/Relu:0", "a:0.5"), octaves=1, steps=1)
        dreamer = build_dreamer(settings, max_memory=1 << 30)
        assert repr(dreamer.objective) == "l2(net/Relu:0) + 0.5*l2(a)"

    def test_an_operator_that_lets_no_gradient_through(self, tmp_path: Path, photo: np.ndarray) -> None:
        nodes = [
            *small.conv("x", "a"), *small.conv("a", "b"),
            small.node("Hardmax", ["b"], "hard", axis=1), *small.conv("hard", "out"),
        ]  # fmt: skip
        sizes = {"w_a": (4, 3, 3, 3), "w_b": (4, 4, 3, 3), "w_out": (4, 4, 3, 3)}
        proto = small.network(nodes, **{name: small.weights(*shape) for name, shape in sizes.items()})
        onnx.save(proto, tmp_path / "hard.onnx")
        model = load_model(tmp_path / "hard.onnx")
        with pytest.raises(NoGradientError, match=r"no gradient flows back.*; layers before it that work: b, b_before"):
            quick(model, obj.l2("out"))
        assert quick(model, obj.l2("b")).dream(photo).steps == 4

    def test_an_operator_that_lets_none_through_right_at_the_start(self, tmp_path: Path) -> None:
        nodes = [small.node("Hardmax", ["x"], "hard", axis=1), *small.conv("hard", "out")]
        onnx.save(small.network(nodes, w_out=small.weights(4, 3, 3, 3)), tmp_path / "hard.onnx")
        with pytest.raises(NoGradientError, match=r"no gradient flows back.*; no layer works"):
            quick(load_model(tmp_path / "hard.onnx"), obj.l2("out"))


class TestSettings:
    def test_layers_of_settings(self, tmp_path: Path) -> None:
        (tmp_path / "a.toml").write_text('model = "efficientnet_lite0"\nsteps = 7\nstep_size = 2\nchannels = "3,5-7"\n')
        settings = layered({"seed": 5}, preset="waves", config=tmp_path / "a.toml")
        shaped = {"colors": "vivid", "headroom": 32.0}
        assert settings == Settings(
            model="efficientnet_lite0", steps=7, step_size=2.0, channels=(3, 5, 6, 7), seed=5, **shaped
        )  # the preset's layer belongs to another network
        assert layered({}, preset="waves") == Settings(layers=("fire5",), steps=12, **shaped)
        again = Settings().updated({k: v for k, v in settings.stored().items() if k != "version"}, "picture")
        assert again == settings

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("stepz = 3", r"unknown setting 'stepz'; did you mean steps\?"),
            ("steps = 2.5", "steps is 2.5, which is not a whole number"),
            ("steps = true", "steps is True, which is not a whole number"),
            ("keep_colors = 1", "keep_colors is 1, which is not true or false"),
            ("layers = [1]", "layers is 1, which is not a text"),
            ('channels = ["a"]', "channels is 'a', which is not a whole number"),
            ("model = 3", "model is 3, which is not a text"),
            ('smooth = "a"', "smooth is 'a', which is not a number"),
            ("steps = ", "not a TOML file"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(OptionError, match=message) as caught:
            layered({}, config=tmp_path / "a.toml")
        assert str(caught.value).startswith(str(tmp_path / "a.toml"))

    def test_small_languages(self) -> None:
        assert parse_channels("3, 5-8") == (3, 5, 6, 7, 8)
        assert parse_layer("fire5:0.5") == ("fire5", 0.5)
        assert parse_layer("fire5") == ("fire5", 1.0)
        assert parse_layer("a/b:c") == ("a/b:c", 1.0)
        for bad in ("", "a", "3,", "-3", "5-3", "1-9999999999"):
            with pytest.raises(OptionError, match="channels"):
                parse_channels(bad)
        for bad in ("fire5:nan", "fire5:inf"):
            with pytest.raises(OptionError, match="not a finite number"):
                parse_layer(bad)

    def test_objectives(self, squeezenet: Model, tmp_path: Path) -> None:
        def text(**changes: object) -> str:
            return repr(build_objective(Settings(layers=("fire6",)).updated(changes, "test"), squeezenet))

        assert text() == "l2(fire6)"
        assert text(layers=["fire4:-1", "fire5:2"]) == "- l2(fire4) + 2*l2(fire5)"
        assert text(channels=[1, 2]) == text(channels=[1, 2], objective="mean") == "channel(fire6, 1, 2)"
        assert [text(objective=name) for name in ("root", "centred")] == ["root(fire6)", "centred(fire6)"]
        assert text(objective="power", exponent=3) == "power(fire6, 3)"
        with pytest.raises(OptionError, match="objective root looks at all channels; leave --channels out"):
            text(objective="root", channels=[1])
        assert text(objective="neuron", channels=[3]) == "neuron(fire6, 3)"
        assert text(objective="logit", channels=[285], layers=[]) == "neuron(logits, 285)"
        with pytest.raises(OptionError, match="objective channel needs --channels"):
            text(objective="channel")
        with pytest.raises(OptionError, match="unknown objective 'l3'; objectives are l2"):
            text(objective="l3")
        with pytest.raises(OptionError, match="a guide is an objective of its own"):
            text(guide="x.png", objective="mean")
        with pytest.raises(OptionError, match="a guide is an objective of its own"):
            text(guide="x.png", channels=[3])
        with pytest.raises(LayerError, match="fire6 is no classifier's output"):
            text(objective="logit", channels=[3])

    @pytest.mark.parametrize(
        "name", everyday((name for name in PRESETS if PRESETS[name]["model"] in registry.bundled()), 2)
    )
    def test_presets_work(self, name: str, photo: np.ndarray) -> None:
        settings = layered({"octaves": 2, "steps": 5}, preset=name)
        dream = build_dreamer(settings, max_memory=1 << 30, device="cpu").dream(photo)
        assert dream.objective_after > dream.objective_before
