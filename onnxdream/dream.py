"""The dream: gradient ascent on a picture, octave by octave."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from .backends.ort import SessionCache
from .errors import OptionError, PictureError
from .images import from_batch, resize, to_batch
from .model import Model
from .objectives import Objective, l2
from .step import build_feature_model, build_gradient_model, build_objective_model, build_step_model, build_update_model
from .tiles import Tiling, largest_tile

DEFAULT_MAX_MEMORY = 4 << 30


@dataclass(frozen=True)
class Progress:
    """Where a dream stands after one step."""

    octave: int  # from 0, smallest first
    octaves: int
    step: int  # from 0, within the octave
    steps: int
    size: tuple[int, int]  # (height, width) of this octave
    objective: float  # before this step, mean over the batch
    picture: Callable[[], np.ndarray]  # fetches the picture so far, uint8 [N,h,w,3] RGB


@dataclass(frozen=True)
class Dream:
    """A finished dream and what it took."""

    picture: np.ndarray  # uint8 [H,W,3] RGB
    exact: np.ndarray  # the same before rounding, float32 [H,W,3] in 0..255
    objective_before: float
    objective_after: float
    steps: int
    seconds: float
    provider: str
    cancelled: bool = False


class Dreamer:
    """Dreams pictures with one network and one objective; holds the compiled graphs between pictures.

    Octaves go from small to large (Mordvintsev et al. 2015): each starts from the source scaled to its size plus the
    detail dreamed so far, scaled up. One step moves each pixel by `step_size` (0..255 units) on average. `jitter` is the
    largest random roll in pixels, drawn anew for each step from `seed`. `smooth` blurs the gradient by a cascade of
    Gaussians around this many pixels. Pictures whose step would need more than `max_memory` bytes are dreamed in tiles.

    The same arguments give the same bytes on CPU. Raises OptionError for settings out of range, and what
    `build_step_model` and the backend raise.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective | None = None,
        *,
        octaves: int = 4,
        octave_scale: float = 1.4,
        steps: int = 10,
        step_size: float = 1.5,
        jitter: int = 32,
        smooth: float = 0.0,
        seed: int = 0,
        max_memory: int = DEFAULT_MAX_MEMORY,
        device: str = "auto",
        threads: int = 0,
    ) -> None:
        _require(octaves >= 1, "octaves", octaves, "at least 1")
        _require(1 < octave_scale <= 8, "octave_scale", octave_scale, "above 1 and at most 8")
        _require(steps >= 0, "steps", steps, "at least 0")
        _require(np.isfinite(step_size), "step_size", step_size, "a finite number")
        _require(jitter >= 0, "jitter", jitter, "at least 0")
        _require(0 <= smooth <= 16, "smooth", smooth, "between 0 and 16")
        _require(max_memory >= 1 << 26, "max_memory", max_memory, "at least 64 MiB")
        self.model, self.objective = model, objective or l2(model.default_layer())
        self.octaves, self.octave_scale, self.steps = octaves, octave_scale, steps
        self.step_size, self.jitter, self.smooth, self.seed = step_size, jitter, smooth, seed
        self.max_memory = max_memory
        self._device, self._threads = device, threads
        self._graphs: dict[tuple[str, bool], SessionCache] = {}
        self._tiles: dict[tuple[int, int], Tiling | None] = {}
        self.smallest = model.smallest_picture(self.objective.layers)
        self._session("step", False)  # whatever is wrong with the objective is found now

    def dream(
        self,
        picture: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        on_step: Callable[[Progress], bool | None] | None = None,
    ) -> Dream:
        """Dream `picture`, uint8 or float [H,W,3] RGB in 0..255.

        `mask` [H,W] in 0..1 says where to dream. `on_step` is called after each step; when it returns False the dream
        stops there. Raises PictureError when the picture is smaller than the layer can work on.
        """
        began = time.perf_counter()
        source = to_batch(picture)
        before = self.measure(source)
        dreamed, done, cancelled = self.ascend(source, mask=mask, on_step=on_step)
        after = self.measure(dreamed)
        exact = from_batch(dreamed)
        return Dream(
            picture=np.rint(exact).astype(np.uint8),
            exact=exact,
            objective_before=before,
            objective_after=after,
            steps=done,
            seconds=time.perf_counter() - began,
            provider=self.provider(source.shape),
            cancelled=cancelled,
        )

    def ascend(
        self,
        source: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        on_step: Callable[[Progress], bool | None] | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, int, bool]:
        """Dream a batch float32 [N,3,H,W] RGB 0..255; returns (the dreamed batch, steps taken, whether it was cancelled)."""
        rng = rng or np.random.default_rng(self.seed)
        sizes = self.octave_sizes(source.shape[2:])
        detail = np.zeros_like(source[:, :, :1, :1])
        image, done = source, 0
        for octave, size in enumerate(sizes):
            base = resize(source, size)
            image = np.clip(base + resize(detail, size), 0, 255)
            here = None if mask is None else _mask_at(mask, size)
            for step, (objective, fetch) in enumerate(self._steps(image, here, rng)):
                done += 1
                if on_step is not None:
                    picture = _as_pictures(fetch)
                    progress = Progress(octave, len(sizes), step, self.steps, size, float(objective.mean()), picture)
                    if on_step(progress) is False:
                        detail = fetch() - base
                        return np.clip(source + resize(detail, source.shape[2:]), 0, 255), done, True
                if step + 1 == self.steps:
                    image = fetch()
            detail = image - base
        return image, done, False

    def measure(self, batch: np.ndarray) -> float:
        """The objective on `batch` float32 [N,3,H,W], mean over the batch; on a reduced copy where it needs tiles."""
        tiling = self._tiling(batch.shape[2:])
        if tiling is not None:
            scale = min(tiling.tile[0] / batch.shape[2], tiling.tile[1] / batch.shape[3])
            batch = resize(batch, (int(batch.shape[2] * scale), int(batch.shape[3] * scale)))
        session = self._session("objective", False).at(batch.shape[0], *batch.shape[2:])
        return float(session.run({"image": batch})["objective"].mean())

    def octave_sizes(self, size: tuple[int, int] | tuple[int, ...]) -> list[tuple[int, int]]:
        """(height, width) of each octave, smallest first, none below the layer's smallest workable picture.

        Raises PictureError when even the full size is below it; warns when octaves are left out.
        """
        height, width = size
        low = self.smallest
        layers = ", ".join(self.objective.layers)
        if height < low[0] or width < low[1]:
            raise PictureError(
                f"a picture of {width}x{height} is too small for {layers}, which needs at least {low[1]}x{low[0]}; "
                "enlarge it or choose an earlier layer"
            )
        sizes = []
        for octave in reversed(range(self.octaves)):
            scale = self.octave_scale**octave
            at = (round(height / scale), round(width / scale))
            if at[0] >= low[0] and at[1] >= low[1]:
                sizes.append(at)
        if len(sizes) < self.octaves:
            left_out = self.octaves - len(sizes)
            warnings.warn(f"{left_out} of {self.octaves} octaves left out: {layers} needs {low[1]}x{low[0]}", stacklevel=2)
        return sizes

    def provider(self, shape: tuple[int, ...]) -> str:
        """The ONNX Runtime provider that dreams batches of this shape."""
        size = tiling.tile if (tiling := self._tiling(shape[2:])) else shape[2:]
        kind = "gradient" if tiling else "step"
        return self._session(kind, False).at(shape[0], *size).provider

    def _steps(
        self, image: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, Callable[[], np.ndarray]]]:
        """Ascend from `image`, yielding (objective, fetch) after each step."""
        tiling = self._tiling(image.shape[2:])
        shifts = [tuple(int(v) for v in rng.integers(-self.jitter, self.jitter + 1, 2)) for _ in range(self.steps)]
        if tiling is None:
            session = self._session("step", mask is not None).at(image.shape[0], *image.shape[2:])
            yield from session.ascend(image, [(self.step_size, (dy, dx)) for dy, dx in shifts], mask)
            return
        gradients = self._session("gradient", False).at(image.shape[0], *tiling.tile)
        update = self._session("update", mask is not None).at(image.shape[0], *image.shape[2:])
        for shift in shifts:
            objective, gradient = tiling.gradient(gradients.run, image, shift, rng)
            feeds = {"image": image, "gradient": gradient, "step_size": np.array(self.step_size, np.float32)}
            image = update.run({**feeds, **({} if mask is None else {"mask": mask})})["dreamed"]
            yield objective, lambda image=image: image  # type: ignore[misc]

    def _session(self, kind: str, mask: bool) -> SessionCache:
        key = (kind, mask)
        if key not in self._graphs:
            build: dict[str, Callable[[], Any]] = {
                "step": lambda: build_step_model(self.model, self.objective, smooth=self.smooth, mask=mask),
                "gradient": lambda: build_gradient_model(self.model, self.objective),
                "objective": lambda: build_objective_model(self.model, self.objective),
                "update": lambda: build_update_model(smooth=self.smooth, mask=mask),
            }
            self._graphs[key] = SessionCache(build[kind](), self._device, threads=self._threads)
        return self._graphs[key]

    def _tiling(self, size: tuple[int, ...]) -> Tiling | None:
        """How to tile a picture of this size, or None where one step fits into `max_memory`."""
        height, width = size
        if (height, width) not in self._tiles:
            layers = [self.model.layer(name) for name in self.objective.layers]
            tile = largest_tile(self.model, layers, (height, width), self.max_memory)
            if tile is not None and not self.objective.local:
                raise PictureError(
                    f"a picture of {width}x{height} needs more than {self.max_memory / 2**30:.1f} GiB, and {self.objective!r} "
                    "looks at the whole picture, so it cannot be tiled; make the picture smaller or raise --max-memory"
                )
            self._tiles[height, width] = tile
        return self._tiles[height, width]


def features(model: Model, layer: str, picture: np.ndarray, *, device: str = "auto", longest: int = 384) -> np.ndarray:
    """The activation [1,C,h,w] of `layer` on `picture` [H,W,3] RGB in 0..255, scaled so that no side exceeds `longest`."""
    batch = to_batch(picture)
    height, width = batch.shape[2:]
    scale = min(1.0, longest / max(height, width))
    low = model.smallest_picture([layer])
    size = (max(low[0], round(height * scale)), max(low[1], round(width * scale)))
    session = SessionCache(build_feature_model(model, layer), device).at(1, *size)
    return session.run({"image": resize(batch, size)})["features"]


def _mask_at(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    scaled = cv2.resize(np.asarray(mask, np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return np.clip(scaled, 0, 1)[None, None]


def _as_pictures(fetch: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    return lambda: np.rint(fetch()).astype(np.uint8).transpose(0, 2, 3, 1)


def _require(condition: bool | np.bool_, name: str, value: object, wanted: str) -> None:
    if not condition:
        raise OptionError(f"{name} is {value}; it must be {wanted}")
