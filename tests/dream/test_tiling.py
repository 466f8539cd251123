"""Tiles: the gradient they give is the whole picture's, they leave no seam, and they keep memory bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from helpers import small_networks as small
from helpers.breadth import everyday
from helpers.command_line import command
from helpers.notes import noted
from onnxdream import Dreamer, load_model
from onnxdream import objectives as obj
from onnxdream.dream.dreamer import features
from onnxdream.dream.shaping import Shaping
from onnxdream.dream.step_graph import build_gradient_model, build_objective_model
from onnxdream.dream.tiling import Tiling, bytes_per_pixel, plan_tiles, step_bytes
from onnxdream.engines.select import select
from onnxdream.errors import PictureError
from onnxdream.images import to_batch
from onnxdream.networks.model import Model

MIB = 1 << 20


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A real photograph, float32 [1,3,600,900]."""
    return to_batch(cv2.resize(skimage.data.coffee(), (900, 600), interpolation=cv2.INTER_CUBIC))


def planned(model: Model, layer: str, size: tuple[int, int], memory: int) -> Tiling:
    """The tiling that a step of l2(layer) gets."""
    per_pixel = bytes_per_pixel(build_objective_model(model, obj.l2(layer)), model.probe)
    tiling = plan_tiles([model.layer(layer)], model.smallest_picture([layer]), size, per_pixel, memory)
    assert tiling is not None
    return tiling


@pytest.mark.parametrize(("size", "share"), everyday([((250, 899), 0.7), ((600, 900), 1.0), ((599, 893), 1.0)], 3))
@pytest.mark.parametrize(
    ("name", "layer", "memory"), everyday([("squeezenet1_1", "fire5", 160), ("efficientnet_lite0", "block5", 250)], 2)
)
def test_the_gradient_is_that_of_the_whole(
    name: str, layer: str, memory: int, size: tuple[int, int], share: float, photo: np.ndarray
) -> None:
    model = load_model(name)
    image = np.ascontiguousarray(photo[:, :, : size[0], : size[1]])
    session = select("cpu").open(build_gradient_model(model, obj.l2(layer)))
    tiling = planned(model, layer, size, int(memory * share) * MIB)
    assert tiling.tile[1] < size[1]
    assert max(tiling.halo) >= model.layer(layer).receptive_field
    shift = (37, -51)
    objective, gradient = tiling.gradient(session.run, image, shift, np.random.default_rng(0))
    whole = session.run({"image": np.ascontiguousarray(np.roll(image, shift, (2, 3)))})
    expected = np.roll(whole["gradient"], tuple(-s for s in shift), (2, 3))
    factor = (gradient * expected).sum() / (gradient * gradient).sum()
    error = np.abs(factor * gradient - expected).max() / np.abs(expected).max()
    print(f"{layer} {size} in tiles of {tiling.tile}, halo {tiling.halo}: {error:.1e} of the largest")
    assert error < 1e-3
    assert objective == pytest.approx(whole["objective"], rel=0.2)
    # The whole picture's objective, from tiles that know nothing of one another.
    run = select("cpu").open(build_objective_model(model, obj.l2(layer))).run
    assert tiling.objective(run, image) == pytest.approx(run({"image": image})["objective"], rel=0.2)


@pytest.mark.slow
def test_a_halo_that_does_not_cover_the_field_is_close(efficientnet: Model, photo: np.ndarray) -> None:
    session = select("cpu").open(build_gradient_model(efficientnet, obj.l2("block10")))
    tiling = planned(efficientnet, "block10", (600, 900), 400 * MIB)
    assert max(tiling.halo) < efficientnet.layer("block10").receptive_field
    _, gradient = tiling.gradient(session.run, photo, (0, 0), np.random.default_rng(0))
    expected = session.run({"image": photo})["gradient"]
    assert (gradient * expected).sum() / np.linalg.norm(gradient) / np.linalg.norm(expected) > 0.95


@pytest.mark.parametrize("length", [300, 301, 317, 640, 1000])
@pytest.mark.parametrize(("tile", "halo", "stride"), [(64, 16, 8), (96, 32, 16), (80, 32, 16), (63, 12, 4)])
def test_tiles_cover_the_picture_once(length: int, tile: int, halo: int, stride: int) -> None:
    at = tile // stride * stride + length % stride
    tiling = Tiling((at, at), (halo, halo), stride)
    for seed in range(20):
        cuts = tiling._cuts(length, 0, np.random.default_rng(seed))
        covered = np.zeros(length, int)
        for start, kept in cuts:
            assert start % stride == 0
            assert 0 <= start <= kept.start < kept.stop <= start + at <= length
            assert kept.start - start >= halo or start == 0
            assert start + at - kept.stop >= halo or start + at == length
            covered[kept] += 1
        assert (covered == 1).all()
    assert tiling._cuts(at, 0, np.random.default_rng(0)) == [(0, slice(0, at))]


def ascend_in_tiles(
    model: Model, layer: str, tiling: Tiling, image: np.ndarray, *, steps: int, moving: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Some steps in tiles, and for each axis where tiles met; without `moving` they always meet at the same places."""
    run = select("cpu").open(build_gradient_model(model, obj.l2(layer))).run
    dreamed = image.copy()
    met: list[list[int]] = [[], []]
    draw = np.random.default_rng(5)
    for step in range(steps):
        shift = tuple(int(v) for v in draw.integers(-32, 33, 2)) if moving else (0, 0)
        seed = step if moving else 0
        _, gradient = tiling.gradient(run, dreamed, shift, np.random.default_rng(seed))
        again = np.random.default_rng(seed)
        for axis in (0, 1):
            cuts = tiling._cuts(image.shape[2 + axis], axis, again)
            met[axis] += [(kept.start - shift[axis]) % image.shape[2 + axis] for _, kept in cuts[1:]]
        Shaping().climb(dreamed, gradient, 1.5, None)
    return dreamed, [np.unique(m) for m in met]


def seam(change: np.ndarray, met: list[np.ndarray]) -> float:
    """Mean absolute second difference of the change at the borders of tiles, over that elsewhere; of the worse axis."""
    ratios = []
    for axis in (0, 1):
        bend = np.abs(np.diff(change[0], 2, axis=axis + 1)).mean((0, 2 - axis))  # bend[i] is centred on i + 1
        border = np.zeros(bend.size, bool)
        for at in met[axis]:
            border[[i for i in (at - 2, at - 1) if 0 <= i < bend.size]] = True
        ratios.append(bend[border].mean() / bend[~border].mean())
    return float(max(ratios, key=lambda ratio: abs(ratio - 1)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer"), [("squeezenet1_1", "fire8"), ("efficientnet_lite0", "block8")])
def test_tile_borders_are_as_smooth_as_the_rest(name: str, layer: str, photo: np.ndarray) -> None:
    """With a halo that covers only a part of the layer's receptive field."""
    model = load_model(name)
    image = np.ascontiguousarray(photo[:, :, 100:460, 200:640])
    tiling = Tiling((168, 168), (48, 48), 16)
    assert model.layer(layer).receptive_field > 3 * max(tiling.halo)
    dreamed, met = ascend_in_tiles(model, layer, tiling, image, steps=4, moving=True)
    ratio = seam(dreamed - image, met)
    # What tiles without halo, always at the same places, do shows that the measure sees seams.
    naive, met = ascend_in_tiles(model, layer, Tiling((88, 88), (0, 0), 16), image, steps=4, moving=False)
    control = seam(naive - image, met)
    print(f"{layer} in tiles of 168, halo 48: second differences at borders x{ratio:.3f}, bare tiles x{control:.3f}")
    assert abs(ratio - 1) < 0.1
    assert abs(control - 1) > 1.5 * abs(ratio - 1)


@pytest.mark.slow
def test_a_tiled_dream_shows_no_seam(squeezenet: Model, rocket: np.ndarray) -> None:
    """Steps between neighbouring rows are nowhere larger than the untiled dream has them."""
    big = cv2.resize(rocket, (1280, 854), interpolation=cv2.INTER_CUBIC)

    def largest_step(max_memory: int) -> float:
        dreamer = Dreamer(squeezenet, obj.l2("fire5"), octaves=1, steps=4, max_memory=max_memory, device="cpu")
        change = dreamer.dream(big).exact - big
        steps = np.abs(np.diff(change, axis=0)).mean((1, 2))
        return float(steps.max() / np.median(steps))

    tiled, whole = largest_step(256 * MIB), largest_step(8 << 30)
    print(f"largest step between rows over the median: {tiled:.2f} tiled, {whole:.2f} whole")
    assert tiled < 1.25 * whole


def test_a_tiled_dream_is_as_good_as_a_whole_one(squeezenet: Model, photo: np.ndarray) -> None:
    picture = photo[0].transpose(1, 2, 0)[:240, :360]
    options = {"octaves": 2, "steps": 2, "device": "cpu"}
    whole = Dreamer(squeezenet, obj.l2("fire4"), **options).dream(picture)
    calls = []
    tiled = Dreamer(squeezenet, obj.l2("fire4"), max_memory=64 * MIB, **options)
    dream = tiled.dream(picture, on_step=lambda progress: calls.append(progress.picture().shape))
    assert tiled._tiling((1, 3, 240, 360), reserved_bytes=2 * 12 * 240 * 360) is not None
    assert calls[-1] == (1, 240, 360, 3)
    assert dream.objective_before == pytest.approx(whole.objective_before, rel=0.2)
    assert tiled.measure(to_batch(dream.exact)) == dream.objective_after
    unlimited = Dreamer(squeezenet, obj.l2("fire4"), **options)
    assert unlimited.measure(to_batch(dream.exact)) == pytest.approx(whole.objective_after, rel=0.1)
    assert dream.provider == "CPUExecutionProvider"
    again = tiled.dream(picture)
    np.testing.assert_array_equal(again.exact, dream.exact)
    mask = np.zeros((240, 360), np.float32)
    mask[:, :200] = 1
    masked = tiled.dream(picture, mask=mask)
    np.testing.assert_allclose(masked.exact[:, 210:], picture[:, 210:], atol=1e-3)
    assert np.abs(masked.exact[:, :190] - picture[:, :190]).mean() > 1


class TestRefused:
    @pytest.mark.parametrize("objective", [obj.neuron("fire6", 3), obj.logit("logits", 285), obj.l2("prob")], ids=repr)
    def test_what_looks_at_the_whole_picture(
        self, squeezenet: Model, photo: np.ndarray, objective: obj.Objective
    ) -> None:
        dreamer = Dreamer(squeezenet, objective, max_memory=64 * MIB, octaves=1, steps=1)
        with pytest.raises(
            PictureError, match=r"needs \d+ MiB, and .* looks at all of it, so it cannot be tiled; make"
        ):
            dreamer.dream(photo[0].transpose(1, 2, 0))
        assert dreamer.dream(photo[0, :, :60, :60].transpose(1, 2, 0)).steps == 1

    def test_what_does_not_fit_at_all(self, squeezenet: Model) -> None:
        dreamer = Dreamer(squeezenet, obj.l2("fire6"), max_memory=64 * MIB, octaves=1, steps=1)
        with pytest.raises(PictureError, match=r"too little memory .* 3000x2000 with fire6; .* --max-memory by \d+M"):
            dreamer.dream(np.zeros((2000, 3000, 3), np.uint8))

    def test_a_guide_counts(self, squeezenet: Model, photo: np.ndarray) -> None:
        g = features(squeezenet, "fire3", photo[0].transpose(1, 2, 0))
        plain, guided = (
            Dreamer(squeezenet, objective)._per_pixel for objective in (obj.l2("fire3"), obj.guide("fire3", g))
        )
        assert guided > 2 * plain

    def test_a_network_that_sees_the_whole_picture_is_tiled_with_a_warning(
        self, tmp_path: Path, photo: np.ndarray
    ) -> None:
        import onnx

        nodes = [
            *small.conv("x", "a"),
            small.node("GlobalAveragePool", ["a"], "mean"), small.node("Mul", ["a", "mean"], "scaled"),
            *small.conv("scaled", "out"),
        ]  # fmt: skip
        proto = small.network(nodes, w_a=small.weights(32, 3, 3, 3), w_out=small.weights(8, 32, 3, 3))
        onnx.save(proto, tmp_path / "gate.onnx")
        dreamer = Dreamer(load_model(tmp_path / "gate.onnx"), obj.l2("out"), max_memory=200 * MIB, octaves=1, steps=1)
        with noted("out sees the whole picture; in tiles it sees only the tile"):
            dream = dreamer.dream(photo[0].transpose(1, 2, 0))
        assert dream.objective_after > dream.objective_before


def peak(folder: Path, *arguments: object) -> tuple[float, dict[str, object]]:
    """Peak resident memory in MiB of `onnxdream image …`, and its JSON."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    program = [sys.executable, "-c", code, *command("image", *arguments, "--json", "--quiet")]
    out = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()
    return float(out[1]), json.loads(out[0])


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted in KiB on Linux only")
class TestMemory:
    @pytest.mark.slow
    def test_it_is_bounded(self, tmp_path: Path) -> None:
        big = cv2.resize(skimage.data.coffee()[:, :, ::-1], (1000, 700), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "big.png"), big)
        look = ("-m", "efficientnet_lite0", "-l", "block5", "--octaves", 2, "--steps", 1)
        options = ("big.png", *look, "-o", "o.png", "--overwrite")
        base, _ = peak(tmp_path, *options, "--size", 40)
        bounded, record = peak(tmp_path, *options, "--max-memory", "250M")
        free, _ = peak(tmp_path, *options)
        print(f"base {base:.0f} MiB, --max-memory 250M {bounded:.0f}, free {free:.0f}")
        assert bounded - base < 250
        assert free - base > 600
        assert record["objective_after"] > record["objective_before"]  # type: ignore[operator]

    @pytest.mark.slow
    @pytest.mark.parametrize(("model", "layer"), [("squeezenet1_1", "fire6"), ("efficientnet_lite0", "block5")])
    def test_it_is_bounded_on_a_big_picture(self, tmp_path: Path, model: str, layer: str) -> None:
        big = cv2.resize(skimage.data.coffee()[:, :, ::-1], (3000, 2000), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "big.png"), big)
        options = ("big.png", "-m", model, "-l", layer, "--octaves", 3, "--steps", 2, "-o", "o.png", "--overwrite")
        base, _ = peak(tmp_path, *options, "--size", 80)
        bounded, _ = peak(tmp_path, *options, "--max-memory", "1G")
        print(f"{model} {layer}, 3000x2000: base {base:.0f} MiB, --max-memory 1G {bounded:.0f}")
        assert bounded - base < 1024

    @pytest.mark.slow
    def test_8k_within_4_gigabytes(self, tmp_path: Path) -> None:
        big = cv2.resize(skimage.data.rocket()[:, :, ::-1], (7680, 4320), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "big.jpg"), big)
        options = ("big.jpg", "-l", "fire5", "--octaves", 1, "--steps", 1, "--step-size", 3, "-o", "o.png")
        whole, record = peak(tmp_path, *options, "--max-memory", "3G")
        print(f"7680x4320 in {whole:.0f} MiB, process and all")
        assert whole < 4096
        assert record["objective_after"] > 1.3 * record["objective_before"]  # type: ignore[operator]


def test_the_estimate_grows_with_everything(squeezenet: Model, efficientnet: Model) -> None:
    def estimate(model: Model, layer: str) -> float:
        return bytes_per_pixel(build_objective_model(model, obj.l2(layer)), model.probe)

    assert estimate(squeezenet, "fire4") < estimate(squeezenet, "fire8") < estimate(efficientnet, "block5")
    assert step_bytes(100, (10, 20), 2) == 2 * step_bytes(100, (10, 20)) == 4 * step_bytes(100, (5, 20))
