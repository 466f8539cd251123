"""Objectives and the step model, against the formulas they state."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from helpers.breadth import everyday
from onnxdream import objectives as obj
from onnxdream.dream.step_graph import build_gradient_model, build_objective_model, build_step_model
from onnxdream.engines.select import select
from onnxdream.errors import LayerError, OptionError
from onnxdream.networks.model import Model
from onnxdream.objectives import Objective
from tools.networks import SqueezeNet

LAYER = "fire4"
IMAGE = np.random.default_rng(0).uniform(0, 255, (2, 3, 75, 90)).astype(np.float32)


def activation() -> torch.Tensor:
    return SqueezeNet(LAYER)(torch.from_numpy(IMAGE)).double()


def guide_score(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    scores = torch.einsum("nchw,cq->nhwq", a, g)
    return scores.amax(-1).mean((1, 2))


RNG = np.random.default_rng(1)
VECTOR = RNG.normal(size=256).astype(np.float32)
FEATURES = RNG.uniform(size=(1, 256, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("objective", "formula"),
    [
        (obj.l2(LAYER), lambda a: a.square().mean((1, 2, 3))),
        (obj.mean(LAYER), lambda a: a.mean((1, 2, 3))),
        (obj.root(LAYER), lambda a: (a.square().mean(1) + 1e-6).sqrt().mean((1, 2))),
        (
            obj.centred(LAYER),
            lambda a: (a - a.mean((2, 3), keepdim=True)).clamp(min=0).square().mean((1, 2, 3)),
        ),
        (obj.power(LAYER, 3), lambda a: a.clamp(min=0).pow(3).mean((1, 2, 3))),
        (obj.channel(LAYER, 7), lambda a: a[:, 7].mean((1, 2))),
        (obj.channel(LAYER, 7, 9), lambda a: a[:, [7, 9]].mean((1, 2, 3))),
        (obj.neuron(LAYER, 5), lambda a: a[:, 5, a.shape[2] // 2, a.shape[3] // 2]),
        (obj.neuron(LAYER, 5, 1, 2), lambda a: a[:, 5, 1, 2]),
        (
            obj.direction(LAYER, VECTOR),
            lambda a: torch.einsum("nchw,c->nhw", a, torch.from_numpy(VECTOR).double()).mean((1, 2)),
        ),
        (obj.guide(LAYER, FEATURES), lambda a: guide_score(a, torch.from_numpy(FEATURES).double().flatten(2)[0])),
        (2 * obj.mean(LAYER) - obj.channel(LAYER, 3), lambda a: 2 * a.mean((1, 2, 3)) - a[:, 3].mean((1, 2))),
    ],
    ids=lambda value: repr(value) if isinstance(value, Objective) else "",
)
def test_objectives_follow_their_formulas(squeezenet: Model, objective: Objective, formula) -> None:
    value = select("cpu").open(build_objective_model(squeezenet, objective)).run({"image": IMAGE})["objective"]
    assert value.shape == (2,)
    np.testing.assert_allclose(value, formula(activation()).detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "objective",
    everyday(
        [
            obj.guide(LAYER, FEATURES),
            obj.neuron(LAYER, 7, 2, 3),
            obj.direction(LAYER, VECTOR, cosine_power=2),
            obj.logit("logits", 285),
            obj.l2("fire3") + 0.5 * obj.channel("fire5", 4) - obj.mean("conv1"),
        ],
        4,
    ),
    ids=repr,
)
def test_gradients_agree_with_finite_differences(squeezenet: Model, objective: Objective) -> None:
    """Along the gradient itself, where the derivative is largest, in float64."""
    from helpers.float64 import run_float64

    image = IMAGE[:1, :, :43, :51].astype(np.float64)
    gradient = run_float64(build_gradient_model(squeezenet, objective), {"image": image})["gradient"]
    assert np.linalg.norm(gradient) > 0
    along = gradient / np.linalg.norm(gradient)
    h, forward = 1e-4, build_objective_model(squeezenet, objective)
    up, down = (run_float64(forward, {"image": image + s * along})["objective"][0] for s in (h, -h))
    assert (up - down) / (2 * h) == pytest.approx(np.linalg.norm(gradient), rel=1e-3)


def test_several_layers_weigh_in(squeezenet: Model) -> None:
    parts = [build_gradient_model(squeezenet, o) for o in (obj.l2("fire3"), obj.l2("fire5"))]
    both = build_gradient_model(squeezenet, obj.l2("fire3") - 0.25 * obj.l2("fire5"))
    first, second = (select("cpu").open(p).run({"image": IMAGE})["gradient"] for p in parts)
    combined = select("cpu").open(both).run({"image": IMAGE})["gradient"]
    np.testing.assert_allclose(combined, first - 0.25 * second, atol=2e-4 * np.abs(combined).max())


def step(proto: onnx.ModelProto, shift=(0, 0), size: float = 1.5, **more: np.ndarray) -> dict[str, np.ndarray]:
    feeds = {"image": IMAGE, "step_size": np.array(size, np.float32), "shift": np.array(shift, np.int64), **more}
    return select("cpu").open(proto).run(feeds)


@pytest.mark.parametrize("shift", [(0, 0), (5, -7), (-80, 200)])
def test_step_is_the_normalised_gradient_of_the_rolled_picture(squeezenet: Model, shift: tuple[int, int]) -> None:
    objective = obj.l2(LAYER)
    result = step(build_step_model(squeezenet, objective), shift)
    rolled = np.ascontiguousarray(np.roll(IMAGE, shift, (2, 3)))
    gradient = select("cpu").open(build_gradient_model(squeezenet, objective)).run({"image": rolled})
    g = np.roll(gradient["gradient"], [-s for s in shift], (2, 3))
    expected = np.clip(IMAGE + 1.5 * g / np.abs(g).mean((1, 2, 3), keepdims=True), 0, 255)
    np.testing.assert_allclose(result["objective"], gradient["objective"], rtol=1e-4)
    np.testing.assert_allclose(result["dreamed"], expected, atol=0.02)


def test_a_step_climbs_and_stays_in_range(squeezenet: Model) -> None:
    proto = build_step_model(squeezenet, obj.l2(LAYER))
    dreamed = step(proto)["dreamed"]
    before, after = (select("cpu").open(proto).run(
        {"image": i, "step_size": np.array(0, np.float32), "shift": np.zeros(2, np.int64)})["objective"]
        for i in (IMAGE, dreamed))  # fmt: skip
    assert (after > before).all()
    assert dreamed.min() >= 0
    assert dreamed.max() <= 255


def test_a_mask_holds_the_picture_where_it_is_black(squeezenet: Model) -> None:
    mask = np.zeros((1, 1, 75, 90), np.float32)
    mask[..., :40] = 1
    dreamed = step(build_step_model(squeezenet, obj.l2(LAYER), mask=True), mask=mask)["dreamed"]
    np.testing.assert_array_equal(dreamed[..., 40:], IMAGE[..., 40:])
    assert np.abs(dreamed[..., :40] - IMAGE[..., :40]).mean() > 0.5


def test_smoothing_takes_the_speckle_out(squeezenet: Model) -> None:
    def roughness(smooth: float) -> float:
        change = step(build_step_model(squeezenet, obj.l2(LAYER), smooth=smooth))["dreamed"] - IMAGE
        return float(np.abs(np.diff(change, axis=3)).mean() / np.abs(change).mean())

    assert roughness(2.0) < 0.6 * roughness(0.0)


def test_a_flat_picture_does_not_turn_into_nan(squeezenet: Model) -> None:
    proto = build_step_model(squeezenet, 0 * obj.l2(LAYER))
    np.testing.assert_array_equal(step(proto)["dreamed"], IMAGE)


def test_what_does_not_fit_is_refused(squeezenet: Model) -> None:
    with pytest.raises(LayerError, match="did you mean fire8"):
        build_step_model(squeezenet, obj.l2("fire88"))
    with pytest.raises(LayerError, match="channels 0 to 255; there is no channel 256"):
        build_step_model(squeezenet, obj.channel(LAYER, 256))
    with pytest.raises(LayerError, match="256 channels but the direction has 3"):
        build_step_model(squeezenet, obj.direction(LAYER, np.ones(3)))
    with pytest.raises(OptionError, match="unknown target"):
        build_step_model(squeezenet, obj.l2(LAYER), target="toaster")
