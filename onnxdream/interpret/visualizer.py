"""Feature visualisation: gradient ascent from noise to a picture that excites one thing in a network."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..dream.finite import explain
from ..dream.step_graph import build_gradient_model, build_objective_model
from ..dream.tiling import bytes_per_pixel, step_bytes
from ..engines.select import select
from ..errors import LayerError, OptionError, PictureError
from ..images import resize, to_batch
from ..networks.model import Model, load_model
from ..objectives import Objective
from ..settings import RunSettings, VisualizationSettings
from .channel_inputs import batch_objectives, graph_key
from .parametrization import Fourier, MaCo, Parametrization, Pixel
from .transforms import RandomTransform

if TYPE_CHECKING:
    import onnx

BATCH_PER_THREAD = 4  # pictures in the batch of one CPU thread; more would not fit its cache
_MEMORY_LIMIT = 2 * 2**30  # bytes for all pictures that are made at once
_STATE_BYTES = 200  # bytes a pixel besides the network's step: spectrum, Adam's means, warp


@dataclass(frozen=True)
class VisualizationRecipe:
    """How a picture is parametrized, transformed before the network sees it, and optimised by Adam.

    Attributes:
        parametrization: Makes the parametrization of pictures of a size (height, width).
        learning_rate: Adam's learning rate.
        transform: The random transform of each step, if any.
        cosine_decay: Whether the learning rate falls to 0 along half a cosine.
    """

    parametrization: Callable[[tuple[int, int]], Parametrization]
    learning_rate: float
    transform: RandomTransform | None
    cosine_decay: bool = False


RECIPES = {
    "fourier": VisualizationRecipe(Fourier, 0.05, RandomTransform(shift=6, scale=(0.9, 1.1), rotation=10)),
    "maco": VisualizationRecipe(
        MaCo, 0.1, RandomTransform(shift=64, scale=(1.0, 1.3), rotation=10, wrap=True), cosine_decay=True
    ),
    "pixel": VisualizationRecipe(Pixel, 2.0, None),
}


@dataclass(frozen=True)
class StepProgress:
    """Progress that is reported after each step of a batch.

    Attributes:
        step: The number of the step, counted from 1.
        steps: How many there will be.
        pictures: How many pictures are in the batch.
    """

    step: int
    steps: int
    pictures: int


@dataclass(frozen=True)
class Visualization:
    """Pictures that maximise objectives.

    Attributes:
        pictures: Uint8 RGB [n,H,W,3]; of a cancelled run as far as they had come.
        cancelled: Whether `on_step` returned False.
    """

    pictures: np.ndarray
    cancelled: bool = False


class Visualizer:
    """Maximises many objectives on one network, with several pictures in a batch and several batches at once.

    All pictures start from the same noise, but repetitions of an objective start from different noise. A picture does
    not depend on the others made with it, unless its objective couples them.

    Args:
        model: The network.
        recipe: "fourier" (lucid's), "maco" or "pixel" (plain gradient ascent), or a recipe of your own.
        size: (height, width) of the pictures in pixels, 16 to 4096.
        steps: How many ascent steps, 1 to 100,000.
        seed: Where the noise and the transforms come from, at least 0.
        device: The device to compute on.
        threads: The number of CPU threads, 0 for all.

    Raises:
        OptionError: A setting is out of range.
    """

    def __init__(
        self,
        model: Model,
        *,
        recipe: str | VisualizationRecipe = VisualizationSettings.recipe,
        size: tuple[int, int] = (VisualizationSettings.size, VisualizationSettings.size),
        steps: int = VisualizationSettings.steps,
        seed: int = VisualizationSettings.seed,
        device: str = RunSettings.device,
        threads: int = RunSettings.threads,
    ) -> None:
        if isinstance(recipe, str):
            VisualizationSettings.check(recipe=recipe)
        VisualizationSettings.check(steps=steps, seed=seed)
        if not 16 <= min(size) <= max(size) <= 4096:
            raise OptionError(f"size is {size[1]}x{size[0]}; it must be between 16 and 4096 a side")
        self.model, self.size, self.steps, self.seed = model, size, steps, seed
        self.recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
        self.device, self.threads = device, threads or os.cpu_count() or 1
        self._engine = select(device)
        self._gradient_graphs: dict[tuple[object, int], onnx.ModelProto] = {}
        self._objective_graphs: dict[object, onnx.ModelProto] = {}
        self._building = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        """Copies, in this process or another, have the same settings and build their own graphs."""
        again = partial(
            Visualizer, recipe=self.recipe, size=self.size, steps=self.steps, seed=self.seed, device=self.device,
            threads=self.threads,
        )  # fmt: skip
        return again, (self.model,)

    def __call__(
        self,
        objectives: Sequence[Objective],
        *,
        start: np.ndarray | None = None,
        on_step: Callable[[StepProgress], bool | None] | None = None,
        on_picture: Callable[[int, np.ndarray], None] | None = None,
    ) -> Visualization:
        """Make a picture for each objective.

        Args:
            objectives: What each picture maximises. Objectives that couple the pictures of a batch must all be of one
                kind, and are optimised together.
            start: A picture, [H,W,3] in 0..255, to start from instead of noise; repetitions of an objective start near
                it.
            on_step: Called after each step of each batch. If it returns False, the ascent ends there.
            on_picture: Called with the position of each picture and the picture, as soon as it is finished.

        Returns:
            The pictures; with `cancelled=True` if `on_step` returned False.

        Raises:
            LayerError: A layer or channel does not exist.
            PictureError: A layer does not take pictures of this size.
            NotFiniteError: The network or the gradient gives NaN or infinity.
        """
        self.check(objectives)
        pictures = np.empty((len(objectives), *self.size, 3), np.uint8)
        groups = self._groups(objectives)
        kinds = {graph_key(objective): objective for objective in objectives}
        workers = min(len(groups), self.threads, *map(self._max_batch, kinds.values())) if self._engine.on_cpu else 1
        seen: Counter[str] = Counter()
        repeats = []
        for objective in objectives:
            repeats.append(seen[repr(objective)])
            seen[repr(objective)] += 1
        cancelled, stop, lock = False, threading.Event(), threading.Lock()
        initial = None if start is None else resize(to_batch(start), self.size)[0]

        def report(progress: StepProgress) -> None:
            nonlocal cancelled
            with lock:
                if on_step is not None and on_step(progress) is False:
                    cancelled = True
                    stop.set()

        def ascend(group: list[int]) -> None:
            goals, repetitions = [objectives[i] for i in group], [repeats[i] for i in group]
            pictures[group] = self._ascend(goals, repetitions, initial, self.threads // workers, report, stop)
            with lock:
                if on_picture is not None and not stop.is_set():
                    for position in group:
                        on_picture(position, pictures[position])

        pool = ThreadPoolExecutor(workers)
        try:
            for _ in pool.map(ascend, groups):
                pass
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        return Visualization(pictures, cancelled)

    def measure(self, objectives: Sequence[Objective], pictures: np.ndarray) -> np.ndarray:
        """Evaluate objectives on finished pictures, as the unmodified network gives them.

        Args:
            objectives: One for each picture.
            pictures: Uint8 RGB [n,H,W,3].

        Returns:
            The values [n].

        Raises:
            NotFiniteError: One of them is NaN or infinite.
        """
        values = np.empty(len(objectives))
        for group in self._groups(objectives):
            goal, feeds = batch_objectives(self.model, [objectives[i] for i in group])
            fixed = dict(zip("NHW", (len(group), *pictures.shape[1:3]), strict=True))
            session = self._engine.open(self._objective_graph(goal), fixed_shapes=fixed)
            batch = np.ascontiguousarray(pictures[group].transpose(0, 3, 1, 2), np.float32)
            values[group] = session.run({"image": batch, **feeds})["objective"]
            finite = np.isfinite(values[group])
            if not finite.all():
                n = int(finite.argmin())
                raise explain(self.model, objectives[group[n]], batch[n : n + 1], self._engine)
        return values

    def find_inactive(self, objectives: Sequence[Objective], values: np.ndarray) -> list[int]:
        """Find the objectives whose channel is inactive everywhere.

        Args:
            objectives: The objectives.
            values: Their values [n], as `measure` returns them.

        Returns:
            The positions of these objectives.
        """
        return [
            position
            for position, (objective, value) in enumerate(zip(objectives, values, strict=True))
            if value == 0 and all(weight > 0 and term.readout for weight, term in objective.terms)
        ]

    def with_steps(self, steps: int) -> Visualizer:
        """The same visualizer with another number of steps."""
        return Visualizer(
            self.model, recipe=self.recipe, size=self.size, steps=steps, seed=self.seed, device=self.device,
            threads=self.threads,
        )  # fmt: skip

    def check(self, objectives: Sequence[Objective]) -> None:
        """Check, before any work, that the network has the layers and channels and takes this size.

        Args:
            objectives: The objectives to check.

        Raises:
            LayerError: A layer or channel does not exist.
            PictureError: A layer does not take pictures of this size.
        """
        for term in {term.text: term for objective in objectives for _, term in objective.terms}.values():
            term.check(self.model.layer(term.layer))
        for layers, places in {(o.layers, tuple(o.places.items())) for o in objectives}:
            wanted = self.model.refusal(layers, self.size, dict(places), channels=True)
            if wanted:
                raise PictureError(
                    f"{', '.join(layers)} takes {wanted}, not {self.size[1]}x{self.size[0]}; choose another --size"
                )

    def _groups(self, objectives: Sequence[Objective]) -> list[list[int]]:
        """The positions of objectives that share a graph, in batches, enough of them to keep all threads busy."""
        by_key: dict[object, list[int]] = defaultdict(list)
        for position, objective in enumerate(objectives):
            by_key[graph_key(objective)].append(position)
        groups = []
        for positions in by_key.values():
            if any(term.couples_batch for _, term in objectives[positions[0]].terms):
                if len(positions) > 1 and self.model.one_at_a_time(objectives[positions[0]].layers):
                    raise LayerError(
                        f"{self.model.name} takes one picture at a time, so pictures cannot be compared with each other"
                    )
                groups.append(positions)
                continue
            max_batch = self._max_batch(objectives[positions[0]])
            busy = min(self.threads, max_batch) if self._engine.on_cpu and len(by_key) < self.threads else 1
            most = (
                min(BATCH_PER_THREAD, max_batch // min(self.threads, max_batch)) if self._engine.on_cpu else max_batch
            )
            rounds = math.ceil(len(positions) / (most * busy)) * busy
            groups += [list(map(int, part)) for part in np.array_split(positions, rounds) if part.size]
        return groups

    def _max_batch(self, objective: Objective) -> int:
        """How many pictures, at least 1, can be made at once within `_MEMORY_LIMIT`."""
        if self.model.one_at_a_time(objective.layers):
            return 1
        goal, _ = batch_objectives(self.model, [objective])
        per_pixel = bytes_per_pixel(self._objective_graph(goal), (1, 3, *self.size)) + _STATE_BYTES
        return max(1, int(_MEMORY_LIMIT / step_bytes(per_pixel, self.size)))

    def _objective_graph(self, goal: Objective) -> onnx.ModelProto:
        """The graph of a batched objective's value; objectives with the same `graph_key` share it."""
        with self._building:
            key = graph_key(goal)
            if key not in self._objective_graphs:
                self._objective_graphs[key] = build_objective_model(self.model, goal, target=self._engine.target)
            return self._objective_graphs[key]

    def _gradient_graph(self, goal: Objective, batch: int) -> onnx.ModelProto:
        """The graph of a batched objective's gradient; objectives with the same `graph_key` share it."""
        with self._building:
            key = (graph_key(goal), batch)
            if key not in self._gradient_graphs:
                model, target = self.model.with_leaky_rectifiers(goal.layers), self._engine.target
                self._gradient_graphs[key] = build_gradient_model(
                    model, goal, size=self.size, batch=batch, target=target
                )
            return self._gradient_graphs[key]

    def _ascend(
        self,
        objectives: list[Objective],
        repetitions: list[int],
        start: np.ndarray | None,
        threads: int,
        report: Callable[[StepProgress], None],
        stop: threading.Event,
    ) -> np.ndarray:
        """The pictures [n,H,W,3] of objectives with the same `graph_key`."""
        goal, feeds = batch_objectives(self.model, objectives)
        session = self._engine.open(self._gradient_graph(goal, len(objectives)), threads=threads)
        parametrization = self.recipe.parametrization(self.size)
        if start is None:
            drawn = [parametrization.start(np.random.default_rng((self.seed, noise))) for noise in repetitions]
        else:
            drawn = [parametrization.encode(_perturbed(start, self.seed, noise)) for noise in repetitions]
        parameters = np.stack(drawn)
        ascent = Adam(parameters, self.recipe.learning_rate)
        moving = np.random.default_rng(self.seed)
        for step in range(self.steps):
            if stop.is_set():
                break
            pictures, vjp = parametrization(parameters)
            warp = self.recipe.transform.sample(moving, self.size) if self.recipe.transform else None
            moved = warp(pictures) if warp else pictures
            outputs = session.run({"image": moved, **feeds})
            gradient = outputs["gradient"]
            finite = np.isfinite(gradient).all((1, 2, 3)) & np.isfinite(outputs["objective"])
            if not finite.all():
                n = int(finite.argmin())
                model = self.model.with_leaky_rectifiers(goal.layers)
                raise explain(model, objectives[n], np.ascontiguousarray(moved[n : n + 1], np.float32), self._engine)
            fade = 0.5 + 0.5 * math.cos(math.pi * step / self.steps) if self.recipe.cosine_decay else 1.0
            ascent.step(vjp(warp.vjp(gradient) if warp else gradient), fade)
            report(StepProgress(step + 1, self.steps, len(objectives)))
        pictures, _ = parametrization(parameters)
        return np.asarray(np.rint(pictures), np.uint8).transpose(0, 2, 3, 1)


def _perturbed(start: np.ndarray, seed: int, noise: int) -> np.ndarray:
    """`start` [3,H,W] in 0..255, with a little noise for repetitions, which would otherwise stay equal."""
    if not noise:
        return start
    rng = np.random.default_rng((seed, noise))
    return np.clip(start + rng.normal(0, 4, start.shape), 0, 255).astype(np.float32)


class Adam:
    """Gradient ascent by Adam (Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization").

    Args:
        parameters: Float32; changed in place.
        learning_rate: The learning rate.
    """

    def __init__(self, parameters: np.ndarray, learning_rate: float) -> None:
        self._parameters, self._rate, self._steps = parameters, learning_rate, 0
        self._mean, self._square = np.zeros_like(parameters), np.zeros_like(parameters)

    def step(self, gradient: np.ndarray, fade: float = 1.0) -> None:
        """Take one step along `gradient`, with the learning rate multiplied by `fade`."""
        self._steps += 1
        self._mean += np.float32(0.1) * (gradient - self._mean)
        self._square += np.float32(0.001) * (gradient * gradient - self._square)
        unbiased = math.sqrt(1 - 0.999**self._steps) / (1 - 0.9**self._steps)
        # Gradients may be small everywhere, so the term that prevents a division by 0 is smaller still.
        self._parameters += np.float32(self._rate * fade * unbiased) * self._mean / (np.sqrt(self._square) + 1e-18)


def visualize(
    model: Model | str,
    objectives: Objective | Sequence[Objective],
    *,
    recipe: str | VisualizationRecipe = VisualizationSettings.recipe,
    size: int | tuple[int, int] = VisualizationSettings.size,
    steps: int = VisualizationSettings.steps,
    seed: int = VisualizationSettings.seed,
    start: np.ndarray | None = None,
    device: str = RunSettings.device,
    threads: int = RunSettings.threads,
    on_step: Callable[[StepProgress], bool | None] | None = None,
) -> Visualization:
    """Make pictures that maximise objectives: what a network's channels look for.

        visualize("squeezenet1_1", [objectives.channel("fire8", c) for c in range(16)]).pictures

    Args:
        model: A network, or its name or ONNX file, see `load_model`.
        objectives: One, or one for each picture.
        recipe: "fourier" (lucid's), "maco" or "pixel" (plain gradient ascent), or a recipe of your own.
        size: The side, or (height, width), of the pictures in pixels, 16 to 4096.
        steps: How many ascent steps, 1 to 100,000.
        seed: Where the noise and the transforms come from, at least 0.
        start: A picture, [H,W,3] in 0..255, to start from instead of noise.
        device: The device to compute on.
        threads: The number of CPU threads, 0 for all.
        on_step: Called after each step of each batch. If it returns False, the ascent ends there.

    Returns:
        The pictures; with `cancelled=True` if `on_step` returned False.

    Raises:
        OptionError: A setting is out of range.
        LayerError: A layer or channel does not exist.
        PictureError: A layer does not take pictures of this size.
        ModelError: The network cannot be loaded.
        NotFiniteError: The network or the gradient gives NaN or infinity.
    """
    loaded = load_model(model) if isinstance(model, str) else model
    sides = (size, size) if isinstance(size, int) else size
    visualizer = Visualizer(loaded, recipe=recipe, size=sides, steps=steps, seed=seed, device=device, threads=threads)
    wanted = [objectives] if isinstance(objectives, Objective) else list(objectives)
    return visualizer(wanted, start=start, on_step=on_step)
