"""Networks that want multiples of some number of pixels, or places that a layer has not: said, padded, or tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from helpers.command_line import onnxdream
from helpers.notes import noted, notes
from helpers.paths import DATA
from helpers.small_networks import conv, network, node, weights
from onnxdream import Dreamer, load_model
from onnxdream import objectives as obj
from onnxdream.errors import LayerError, PictureError
from onnxdream.export import export_model
from onnxdream.interpret.visualizer import visualize
from onnxdream.networks.model import Model

PHOTO = cv2.resize(cv2.imread(str(DATA / "rocket.jpg")), (131, 97), interpolation=cv2.INTER_AREA)


def written(proto: onnx.ModelProto, folder: Path) -> Model:
    onnx.save(proto, folder / "net.onnx")
    return load_model(folder / "net.onnx")


def two_scales(folder: Path, halvings: int = 3) -> Model:
    """As in HRNet: what was halved is doubled again and added to what it was, which fails for other sizes."""
    nodes, stem = [], "x"
    for level in range(halvings):
        nodes += conv(stem, f"a{level}", strides=[2, 2])
        stem = f"a{level}"
    nodes += [node("Resize", [stem, "", "by"], "up", mode="nearest"), node("Conv", ["x", "w_skip"], "skip")]
    nodes += [node("Add", ["up", "skip"], "out")]
    kernels = {f"w_a{level}": weights(6, 6 if level else 3, 3, 3, seed=level) for level in range(halvings)}
    scale = np.array([1, 1, 2**halvings, 2**halvings], np.float32)
    return written(network(nodes, by=scale, w_skip=weights(6, 3, 1, 1), **kernels), folder)


def reduced_attention(folder: Path) -> Model:
    """As in PVT: each token is weighed against those of a picture reduced by 4, 8 times over."""
    nodes, x = [*conv("x", "t0", strides=[4, 4])], "t0"
    for layer in range(8):
        nodes += [
            node("Conv", [x, "w_less"], f"less{layer}", strides=[4, 4]),
            node("Reshape", [x, "tokens"], f"q{layer}"),
            node("Reshape", [f"less{layer}", "tokens"], f"k{layer}"),
            node("Transpose", [f"q{layer}"], f"qt{layer}", perm=[0, 2, 1]),
            node("MatMul", [f"qt{layer}", f"k{layer}"], f"scores{layer}"),
            node("Softmax", [f"scores{layer}"], f"shares{layer}", axis=-1),
            node("Transpose", [f"k{layer}"], f"v{layer}", perm=[0, 2, 1]),
            node("MatMul", [f"shares{layer}", f"v{layer}"], f"mixed{layer}"),
            node("Transpose", [f"mixed{layer}"], f"back{layer}", perm=[0, 2, 1]),
            node("Shape", [x], f"shape{layer}"),
            node("Reshape", [f"back{layer}", f"shape{layer}"], f"grid{layer}"),
            node("Add", [f"grid{layer}", x], f"t{layer + 1}"),
        ]
        x = f"t{layer + 1}"
    nodes += conv(x, "out")
    constants = {"w_t0": weights(8, 3, 3, 3), "w_less": weights(8, 8, 4, 4), "w_out": weights(6, 8, 3, 3)}
    return written(network(nodes, tokens=np.array([0, 0, -1]), **constants), folder)


def pooled(folder: Path) -> Model:
    """A layer `out` of one place, 1x1, behind the pooling."""
    nodes = [
        *conv("x", "a", strides=[2, 2]),
        node("GlobalAveragePool", ["a"], "pool"),
        node("Conv", ["pool", "w"], "out"),
    ]
    return written(network(nodes, w_a=weights(8, 3, 3, 3), w=weights(6, 8, 1, 1)), folder)


# stefanopini/simple-HRNet#16, HRNet/HRNet-Object-Detection#4: sides that are no multiples of 32.
def test_my_network_takes_any_size_and_fails_on_mine(tmp_path: Path) -> None:
    model = two_scales(tmp_path)
    assert model.size_multiple(["out"]) == 8
    assert model.size_multiple(["a1"]) == 1
    assert model.nearest_size(["out"], (97, 131)) == (104, 136)
    dreamer = Dreamer(model, obj.l2("out"), octaves=3, octave_scale=1.7, steps=2)
    assert dreamer.octave_sizes((97, 131)) == [(32, 48), (64, 80), (104, 136)]
    text = r"out of net takes multiples of 8 pixels: 131x97 is continued by reflection to 136x104, and cut off again"
    with noted(text):
        dream = dreamer.dream(PHOTO)
    assert dream.picture.shape == PHOTO.shape
    assert dream.objective_after > dream.objective_before
    with notes() as told:
        again = dreamer.dream(PHOTO)
    assert not told  # once is enough for a video
    np.testing.assert_array_equal(again.exact, dream.exact)
    # It is the dream of the picture continued, cut off.
    wider = np.pad(PHOTO, ((0, 7), (0, 5), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(dreamer.dream(wider).exact[:97, :131], dream.exact)


def test_masks_are_continued_with_the_picture(tmp_path: Path) -> None:
    dreamer = Dreamer(two_scales(tmp_path), obj.l2("out"), octaves=1, steps=1, jitter=0)
    mask = np.zeros((97, 131), np.float32)
    mask[:, 100:] = 1
    exact = dreamer.dream(PHOTO, mask=mask).exact
    np.testing.assert_array_equal(exact[:, :100], PHOTO[:, :100])
    assert np.abs(exact[:, 100:] - PHOTO[:, 100:]).mean() > 0.1
    half = dreamer.dream(PHOTO, mask=cv2.resize(mask, (66, 49))).exact
    assert np.abs(half[:, 110:] - PHOTO[:, 110:]).mean() > 0.1


def test_a_network_may_want_multiples_of_64(tmp_path: Path) -> None:
    model = two_scales(tmp_path, halvings=6)
    assert model.fixed_input_size(["out"]) is None
    assert model.size_multiple(["out"]) == 64
    assert Dreamer(model, obj.l2("out"), octaves=1, steps=1).dream(PHOTO).picture.shape == PHOTO.shape


def test_tiles_are_multiples_too(tmp_path: Path) -> None:
    dreamer = Dreamer(two_scales(tmp_path), obj.l2("out"), octaves=1, max_memory=64 << 20)
    tiling = dreamer._tiling((1, 3, 904, 1008), reserved_bytes=0)
    assert tiling is not None
    assert [side % 8 for side in (*tiling.tile, *tiling.halo, tiling.stride)] == [0] * 5
    assert tiling.tile[0] < 904


def test_multiples_elsewhere_are_said_or_kept(tmp_path: Path) -> None:
    model = two_scales(tmp_path)
    with pytest.raises(PictureError, match="out takes only pictures whose sides are multiples of 8"):
        export_model(model, obj.l2("out"), tmp_path / "step.onnx", size=(97, 131))
    with pytest.raises(PictureError, match="multiples of 8, not 60x60; choose another --size"):
        visualize(model, obj.channel("out", 1), size=60, steps=1)
    done = onnxdream("activations", DATA / "rocket.jpg", "-m", "net.onnx", "-l", "out", "-o", "a.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "net takes multiples of 8 pixels" in onnxdream("layers", "net.onnx", folder=tmp_path).stderr
    done = onnxdream("export", "net.onnx", "-l", "out", "-o", "step.onnx", folder=tmp_path)
    assert "step.onnx takes pictures whose sides are multiples of 8" in done.stderr


def test_attention_over_a_reduced_picture_needs_no_huge_one(tmp_path: Path) -> None:
    model = reduced_attention(tmp_path)
    dreamer = Dreamer(model, obj.l2("out"), octaves=2, steps=1)
    assert dreamer.octave_sizes((48, 56)) == [(34, 40), (48, 56)]
    assert dreamer.dream(PHOTO[:48, :56]).picture.shape == (48, 56, 3)
    with pytest.raises(PictureError, match="12x9 is too small for out, which needs at least 13x13"):
        dreamer.dream(PHOTO[:9, :12])
    assert dreamer.dream(PHOTO[:13, :13]).steps == 1


def test_a_neuron_where_a_layer_has_no_such_place(tmp_path: Path) -> None:
    model = pooled(tmp_path)
    with pytest.raises(LayerError, match=r"layer out has 1x1 places, so neuron\(out, 1, 3, 4\) asks for one .* leave"):
        Dreamer(model, obj.neuron("out", 1, 3, 4))
    with pytest.raises(PictureError, match="131x97 is too small for a, which needs at least 7x601"):
        Dreamer(model, obj.neuron("a", 1, 300, 3)).dream(PHOTO)
    for place in ((), (0, 0)):
        assert Dreamer(model, obj.neuron("out", 1, *place), octaves=1, steps=1).dream(PHOTO).steps == 1
    # The place is on the grid of the whole picture: smaller octaves do not have it.
    with noted("1 of 2 octaves left out: a needs 131x97"):
        options: dict[str, Any] = {"jitter": 0, "smooth": 0.0, "bands": (), "colors": "free"}
        dream = Dreamer(model, obj.neuron("a", 1, 48, 65), octaves=2, steps=1, **options).dream(PHOTO)
    moved = np.abs(dream.exact - PHOTO).sum(2) > 0
    assert moved[95:, 129:].any()
    assert not moved[:94].any()
    assert not moved[:, :128].any()
