"""The dream: gradient ascent on a picture, octave by octave."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..autodiff.registry import RULES
from ..engines.base import HostOctaves, HostPicture, Picture, Session
from ..engines.cache import SessionCache
from ..engines.select import select
from ..errors import NoGradientError, PictureError
from ..graph.shapes import inputs_of
from ..images import from_batch, resize, to_batch
from ..networks.model import Model
from ..objectives import Objective, l2
from ..settings import RunSettings, Settings
from .finite import explain, explain_activation
from .shaping import Shaping
from .step_graph import build_feature_model, build_gradient_model, build_objective_model, build_step_model
from .tiling import Tiling, bytes_per_pixel, plan_tiles, step_bytes

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

Shift = tuple[int, int]  # (dy, dx) that the picture is rolled by

_OPTIONS = (
    "octaves", "octave_scale", "steps", "step_size", "jitter", "bands", "colors", "headroom", "smooth", "half", "seed",
    "max_memory", "device", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """The state of a dream after one step.

    Attributes:
        octave: The number of the octave, counted from 0 at the smallest.
        octaves: How many octaves there are.
        step: The number of the step within the octave, counted from 0.
        steps: How many steps the octave has.
        size: (height, width) of the octave in pixels.
        objective: The objective before this step, the mean over the batch.
        picture: Fetches the picture so far, uint8 RGB [N,h,w,3]; to be called before the dream continues.
    """

    octave: int
    octaves: int
    step: int
    steps: int
    size: tuple[int, int]
    objective: float
    picture: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Dream:
    """A finished dream.

    Attributes:
        picture: Uint8 RGB [H,W,3].
        exact: The same before rounding, float32 [H,W,3] in 0..255.
        objective_before: The objective on the source.
        objective_after: The objective on the dream.
        steps: How many steps were taken.
        seconds: How long it took.
        provider: What computed it; see `Dreamer.provider`.
        cancelled: Whether `on_step` returned False.
    """

    picture: np.ndarray
    exact: np.ndarray
    objective_before: float
    objective_after: float
    steps: int
    seconds: float
    provider: str
    cancelled: bool = False


class Dreamer:
    """Dreams pictures with one network and one objective; keeps the compiled graphs between pictures.

    Octaves go from small to large (Mordvintsev, Olah and Tyka 2015, "Inceptionism"): each starts from the source scaled
    to its size plus the detail dreamed so far, scaled up. The same arguments give the same bytes on the CPU.

    Args:
        model: The network.
        objective: What to maximise. Default: the mean square of the network's default layer.
        octaves: How many octaves, 1 to 64.
        octave_scale: The ratio of one octave's size to the one before, above 1 and at most 8.
        steps: How many ascent steps per octave, 0 to 100,000.
        step_size: How far a step moves each pixel on average, -255 to 255; a negative one minimises the objective.
        jitter: The picture is rolled at random before each step by up to this many pixels, 0 to 100,000.
        bands: The gradient's bands are brought to the same strength times these gains, fine to coarse; see `Shaping`.
            Empty to leave them as they are.
        colors: What colours the gradient may bring: "natural", "vivid", "free", "ink", or two gains such as "0.6,0.3";
            see `shaping.color_matrix`.
        headroom: Steps become smaller this near to black and white, 0 to 255; 0 for nowhere.
        smooth: The gradient is blurred by a cascade of Gaussians around this many pixels, 0 to 16.
        half: Whether the network computes in half precision, which is faster on some devices.
        seed: Where the jitter comes from, at least 0.
        max_memory: Pictures whose step would need more than this many bytes are dreamed in tiles; at least 64 MiB.
        device: The device to compute on.
        threads: The number of CPU threads, 0 for all.

    Raises:
        OptionError: A setting is out of range.
        LayerError: The objective does not fit a layer.
        NoGradientError: No gradient flows from a layer to the picture.
        BackendError: The device is not available.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective | None = None,
        *,
        octaves: int = Settings.octaves,
        octave_scale: float = Settings.octave_scale,
        steps: int = Settings.steps,
        step_size: float = Settings.step_size,
        jitter: int = Settings.jitter,
        bands: Sequence[float] = Settings.bands,
        colors: str = Settings.colors,
        headroom: float = Settings.headroom,
        smooth: float = Settings.smooth,
        half: bool = Settings.half,
        seed: int = Settings.seed,
        max_memory: int = RunSettings.max_memory,
        device: str = RunSettings.device,
        threads: int = RunSettings.threads,
    ) -> None:
        Settings.check(
            octaves=octaves, octave_scale=octave_scale, steps=steps, step_size=step_size, jitter=jitter, half=half,
            seed=seed,
        )  # fmt: skip
        self._shaping = Shaping(smooth, tuple(bands), colors, headroom)
        RunSettings.check(max_memory=max_memory, threads=threads)
        self.model, self.objective = model, objective or l2(model.default_layer())
        self.octaves, self.octave_scale, self.steps = octaves, octave_scale, steps
        self.step_size, self.jitter, self.seed = step_size, jitter, seed
        self.bands, self.colors, self.headroom, self.smooth = tuple(bands), colors, headroom, smooth
        self.half, self.max_memory = half, max_memory
        self.device, self.threads = device, threads
        self._engine = select(device)
        self._sessions = SessionCache(self._engine, threads=threads, limit=max_memory)
        self._graphs: dict[tuple[str, bool, str], onnx.ModelProto] = {}
        self._tiles: dict[tuple[int, ...], Tiling | None] = {}
        self._left_out = 0  # octaves, as last noted
        self._half_tried = False
        layers = self.objective.layers
        self._layers = [model.layer(name) for name in layers]
        self.smallest, self.fixed_input_size = model.smallest_picture(layers), model.fixed_input_size(layers)
        try:
            self._graph("step", False)  # whatever is wrong with the objective is found now
        except NoGradientError as error:
            near = ", ".join(_working_layers(model, layers))
            raise NoGradientError(
                f"{error}; {f'layers before it that work: {near}' if near else 'no layer works'}"
            ) from error
        self._per_pixel = bytes_per_pixel(self._graph("objective", False), model.probe)

    def __getstate__(self) -> dict[str, object]:
        """Copies have engine and sessions of their own, since they may go to another machine."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_engine", "_sessions")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._engine = select(self.device)
        self._sessions = SessionCache(self._engine, threads=self.threads, limit=self.max_memory)

    def with_objective(self, objective: Objective) -> Dreamer:
        """A Dreamer with the same settings and another objective.

        Args:
            objective: What to maximise.

        Returns:
            A new Dreamer.

        Raises:
            LayerError: The objective does not fit a layer.
            NoGradientError: No gradient flows from a layer to the picture.
        """
        return Dreamer(self.model, objective, **{name: getattr(self, name) for name in _OPTIONS})

    def dream(
        self,
        picture: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        on_step: Callable[[Progress], bool | None] | None = None,
    ) -> Dream:
        """Dream a picture.

        Args:
            picture: RGB, uint8 or float [H,W,3] in 0..255.
            mask: Where to dream, float [H,W] in 0..1.
            on_step: Called after each step. If it returns False, the dream ends there, with `cancelled=True`.

        Returns:
            The dream, of the size of the picture.

        Raises:
            PictureError: The array is not a picture, or is smaller than the layer can work on.
            NotFiniteError: The network, the objective or its gradient gives NaN or infinity.
        """
        began = time.perf_counter()
        source = to_batch(picture)
        self.check_size(source.shape[2:])
        before = self.measure(source)
        dreamed, done, cancelled = self.ascend(source, mask=mask, on_step=on_step)
        after = self.measure(dreamed)
        if done and mask is None and self.step_size and before == after and np.array_equal(source, dreamed):
            log.warning(f"{self.objective!r} does not respond to this picture, so nothing was dreamed")
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
        steps: int | Sequence[int] | None = None,
        step_size: float | None = None,
    ) -> tuple[np.ndarray, int, bool]:
        """Dream a batch of pictures.

        Args:
            source: RGB float32 [N,3,H,W] in 0..255.
            mask: Where to dream, float [H,W] in 0..1.
            on_step: Called after each step. If it returns False, the dream ends there.
            rng: Draws the jitter. Default: a generator seeded with the Dreamer's seed.
            steps: How many per octave, or a number for each octave from the smallest; if there are fewer numbers than
                octaves, the smallest octaves are omitted. Default: the Dreamer's own.
            step_size: Default: the Dreamer's own.

        Returns:
            The dreamed batch, how many steps were taken, and whether the dream was cancelled.

        Raises:
            PictureError: The pictures are smaller than the layer can work on, or several where the network takes one at
                a time, or the mask is not valid.
            NotFiniteError: The network, the objective or its gradient gives NaN or infinity.
        """
        each = self.steps if steps is None else steps
        step_size = self.step_size if step_size is None else step_size
        rng = rng or np.random.default_rng(self.seed)
        if len(source) > 1 and self.model.one_at_a_time:
            raise PictureError(
                f"{self.model.name} takes one picture at a time, not {len(source)}; dream them one by one"
            )
        if mask is not None and (np.ndim(mask) != 2 or 0 in np.shape(mask) or not np.isfinite(mask).all()):
            raise PictureError(f"a mask must be [H,W] of numbers in 0..1; this one is {list(np.shape(mask))}")
        sizes = self.octave_sizes(source.shape[2:], None if isinstance(each, int) else len(each))
        if not sizes:
            return source, 0, False
        if self.half and not self._half_tried:
            self._try_half_precision()
        counts = [each] * len(sizes) if isinstance(each, int) else list(each[-len(sizes) :])
        shapes = [(*source.shape[:2], *size) for size in sizes]
        tilings = [self._tiling(shape, reserved_bytes=2 * source.nbytes) for shape in shapes]
        octaves = HostOctaves(source) if any(tilings) else self._engine.octaves(source)
        done = 0
        for octave, (size, shape, count, tiling) in enumerate(zip(sizes, shapes, counts, tilings, strict=True)):
            image = octaves.start(size)
            here = None if mask is None else _mask_at(mask, size)
            picture = image if isinstance(image, Picture) else HostPicture(image)
            shifts = [(int(dy), int(dx)) for dy, dx in rng.integers(-self.jitter, self.jitter + 1, (count, 2))]
            ascent = self._finite_steps(image, shape, here, shifts, rng, step_size, tiling)
            for step, (objective, picture) in enumerate(ascent):
                done += 1
                if on_step is not None:
                    fetch = functools.partial(_as_pictures, picture)
                    progress = Progress(octave, len(sizes), step, count, size, float(objective.mean()), fetch)
                    if on_step(progress) is False:
                        return octaves.whole(picture), done, True
            if octave + 1 < len(sizes):
                octaves.end(picture)
        return octaves.whole(picture), done, False

    def measure(self, batch: np.ndarray) -> float:
        """Evaluate the objective.

        Args:
            batch: RGB float32 [N,3,H,W] in 0..255.

        Returns:
            The objective, the mean over the batch and, for large pictures, over tiles.

        Raises:
            NotFiniteError: It is NaN or infinite.
        """
        tiling = self._tiling(batch.shape, reserved_bytes=2 * batch.nbytes)
        run = self._session("objective", batch.shape, tiling).run
        value = run({"image": batch})["objective"] if tiling is None else tiling.objective(run, batch)
        if not np.isfinite(value).all():
            shown = batch if tiling is None else batch[:, :, : tiling.tile[0], : tiling.tile[1]]
            raise explain(self.model, self.objective, np.ascontiguousarray(shown), self._engine)
        return float(value.mean())

    def check_size(self, size: tuple[int, ...]) -> None:
        """Check that pictures of a size can be dreamed.

        Args:
            size: (height, width) in pixels.

        Raises:
            PictureError: The layer does not take pictures of this size.
        """
        (height, width), low = size, self.smallest
        layers = ", ".join(self.objective.layers)
        fixed = self.fixed_input_size
        if fixed is not None and fixed != (height, width):
            raise PictureError(
                f"{layers} works only on pictures of {fixed[1]}x{fixed[0]}, not {width}x{height}; "
                "resize the picture or choose an earlier layer"
            )
        if height < low[0] or width < low[1]:
            raise PictureError(
                f"a picture of {width}x{height} is too small for {layers}, which needs at least {low[1]}x{low[0]}; "
                "enlarge it or choose an earlier layer"
            )

    def octave_sizes(self, size: tuple[int, ...], octaves: int | None = None) -> list[tuple[int, int]]:
        """The sizes of the octaves; those below the smallest picture that the layer can work on are omitted.

        Args:
            size: (height, width) of the picture in pixels.
            octaves: How many octaves. Default: the Dreamer's own.

        Returns:
            (height, width) of each, the smallest first.

        Raises:
            PictureError: The layer does not take pictures of this size.
        """
        self.check_size(size)
        (height, width), low = size, self.fixed_input_size or self.smallest
        sizes, octaves = [], self.octaves if octaves is None else octaves
        for octave in reversed(range(octaves)):
            scale = self.octave_scale**octave
            at = (round(height / scale), round(width / scale))
            if at[0] >= low[0] and at[1] >= low[1]:
                sizes.append(at)
        left_out = octaves - len(sizes)
        if left_out not in (0, self._left_out):  # noted once, not for each frame of a video
            layers = ", ".join(self.objective.layers)
            log.warning(f"{left_out} of {octaves} octaves left out: {layers} needs {low[1]}x{low[0]}")
            self._left_out = left_out
        return sizes

    def provider(self, shape: tuple[int, ...]) -> str:
        """What computes dreams of a shape.

        Args:
            shape: [N,3,H,W] of a batch.

        Returns:
            ONNX Runtime's name of its provider, or the name of another engine.
        """
        tiling = self._tiling(shape, reserved_bytes=8 * math.prod(shape))
        return self._session("objective", shape, tiling).provider

    @property
    def engine(self) -> str:
        """The name of the device that runs the network, one of `engines.select.DEVICES`."""
        return self._engine.device

    def _finite_steps(
        self,
        image: np.ndarray | Picture,
        shape: tuple[int, ...],
        mask: np.ndarray | None,
        shifts: Sequence[Shift],
        rng: np.random.Generator,
        step_size: float,
        tiling: Tiling | None,
    ) -> Iterator[tuple[np.ndarray, Picture]]:
        """`_steps`, in single precision where half precision does not suffice.

        Raises NotFiniteError where single precision does not either.
        """

        def ascent(shifts: Sequence[Shift]) -> Iterator[tuple[np.ndarray, Picture]]:
            return self._steps(image, shape, mask, shifts, rng, step_size, tiling)

        for step, (objective, picture) in enumerate(ascent(shifts)):
            if np.isfinite(objective).all():
                yield objective, picture
                continue
            if self.half:
                self._leave_half_precision()
                again = self._finite_steps(image, shape, mask, shifts, rng, step_size, tiling)
                yield from itertools.islice(again, step, None)
                return
            before = image if isinstance(image, np.ndarray) else image.fetch()
            for _, reached in ascent(shifts[:step]):
                before = reached.fetch()
            shown = np.roll(before, shifts[step], (2, 3))
            if tiling is not None:
                shown = shown[:, :, : tiling.tile[0], : tiling.tile[1]]
            raise explain(self.model, self.objective, np.ascontiguousarray(shown), self._engine)

    def _try_half_precision(self) -> None:
        """Leave half precision before anything is dreamed in it, where it does not even suffice for noise."""
        self._half_tried = True
        size = self.fixed_input_size or tuple(max(128, low) for low in self.smallest)
        noise = np.random.default_rng(0).uniform(0, 255, (1, 3, *size)).astype(np.float32)
        session = self._engine.open(self._graph("step", False), threads=self.threads)
        objective, _ = next(session.ascend(noise, [(1.0, (0, 0))]))
        if not np.isfinite(objective).all():
            self._leave_half_precision()

    def _leave_half_precision(self) -> None:
        """Go on in single precision, and say so."""
        log.warning(f"{self.objective!r} gives NaN or infinity in half precision; single precision is used instead")
        self.half = False
        self._graphs.clear()
        self._sessions = SessionCache(self._engine, threads=self.threads, limit=self.max_memory)

    def _steps(
        self,
        image: np.ndarray | Picture,
        shape: tuple[int, ...],
        mask: np.ndarray | None,
        shifts: Sequence[Shift],
        rng: np.random.Generator,
        step_size: float,
        tiling: Tiling | None,
    ) -> Iterator[tuple[np.ndarray, Picture]]:
        """Ascend from what an octave of this shape starts from, yielding (objective, picture) after each step."""
        if tiling is None:
            session = self._session("step", shape, None, mask=mask is not None)
            yield from session.ascend(image, [(step_size, shift) for shift in shifts], mask)
            return
        gradients = self._session("gradient", shape, tiling)
        tiled = image.fetch() if isinstance(image, Picture) else image.copy()
        for shift in shifts:
            objective, gradient = tiling.gradient(gradients.run, tiled, shift, rng)
            if not np.isfinite(gradient.sum(dtype=np.float64)):
                objective = np.full_like(objective, np.nan)
            self._shaping.climb(tiled, gradient, step_size, mask)
            del gradient
            yield objective, HostPicture(tiled)

    def _graph(self, kind: str, mask: bool) -> onnx.ModelProto:
        target = self._engine.target
        key = (kind, mask, target)
        if key not in self._graphs:
            about, shaping = (self.model, self.objective), self._shaping.options()
            build: dict[str, Callable[[], onnx.ModelProto]] = {
                "step": lambda: build_step_model(*about, **shaping, mask=mask, target=target, half=self.half),
                "gradient": lambda: build_gradient_model(*about, target=target, half=self.half),
                "objective": lambda: build_objective_model(*about, target=target),
            }
            self._graphs[key] = build[kind]()
        return self._graphs[key]

    def _session(self, kind: str, shape: tuple[int, ...], tiling: Tiling | None, *, mask: bool = False) -> Session:
        """The session that runs graphs of this kind on batches of this shape, or on their tiles."""
        batch, _, height, width = (*shape[:2], *tiling.tile) if tiling else shape
        held = self.max_memory if tiling else step_bytes(self._per_pixel, (height, width), batch)
        return self._sessions.at((kind, mask), self._graph(kind, mask), (batch, height, width), held)

    def _tiling(self, shape: tuple[int, ...], *, reserved_bytes: int) -> Tiling | None:
        """How to tile pictures of this shape, or None where one step fits into `max_memory`.

        `reserved_bytes` is what pictures of other sizes take meanwhile.
        """
        key = (*shape, reserved_bytes)
        if key not in self._tiles:
            batch, _, height, width = shape
            size, limit = (height, width), self.max_memory - reserved_bytes
            objective, layers = self.objective, ", ".join(self.objective.layers)
            needed = (step_bytes(self._per_pixel, size, batch) + reserved_bytes) / 2**20
            local = objective.local and self.fixed_input_size is None and all(layer.spatial for layer in self._layers)
            if needed > self.max_memory / 2**20 and not local:
                raise PictureError(
                    f"a picture of {width}x{height} needs {needed:.0f} MiB, and {objective!r} looks at all of it, "
                    f"so it cannot be tiled; make it smaller or raise --max-memory to {needed + 1:.0f}M"
                )
            tiling = plan_tiles(self._layers, self.smallest, size, self._per_pixel, limit, batch=batch)
            if tiling is not None and any(math.isinf(layer.receptive_field) for layer in self._layers):
                log.warning(f"{layers} sees the whole picture; in tiles it sees only the tile")
            self._tiles[key] = tiling
        return self._tiles[key]


def _working_layers(model: Model, layers: Sequence[str], count: int = 2) -> list[str]:
    """The last `count` layers before one of `layers` whose gradient can be taken, nearest first."""
    good = touched = {model.input_name}
    for node in model.proto.graph.node:
        reads = inputs_of(node) & touched
        if reads:
            touched = touched | set(node.output)
            good = good | set(node.output) if reads <= good and node.op_type in RULES else good
    names = list(model.layers)
    end = min(names.index(name) for name in [n for n in layers if n not in good] or layers)
    found = []
    for name in [n for n in reversed(names[:end]) if n in good and model.layers[n].spatial][: 2 * count]:
        with contextlib.suppress(NoGradientError):
            build_gradient_model(model, l2(name))
            found.append(name)
    return found[:count]


def features(model: Model, layer: str, picture: np.ndarray, *, device: str = "auto", longest: int = 384) -> np.ndarray:
    """The activation [1,C,h,w] of `layer` on `picture` [H,W,3] RGB in 0..255, scaled to at most `longest` a side."""
    batch = to_batch(picture)
    height, width = batch.shape[2:]
    scale = min(1.0, longest / max(height, width))
    low = model.smallest_picture([layer])
    size = (max(low[0], round(height * scale)), max(low[1], round(width * scale)))
    size = model.fixed_input_size([layer], channels=True) or size
    engine = select(device)
    graph = build_feature_model(model, layer, target=engine.target)
    session = engine.open(graph, fixed_shapes={"N": 1, "H": size[0], "W": size[1]})
    shown = resize(batch, size)
    activation = session.run({"image": shown})["features"]
    if not np.isfinite(activation).all():
        raise explain_activation(model, layer, shown, engine)
    return activation


def _mask_at(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = mask.shape[0] > size[0] or mask.shape[1] > size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled = cv2.resize(np.asarray(mask, np.float32), size[::-1], interpolation=method)
    return np.clip(scaled, 0, 1)[None, None]


def _as_pictures(picture: Picture) -> np.ndarray:
    """A picture as uint8 [N,H,W,3]."""
    pictures: np.ndarray = np.rint(picture.fetch()).astype(np.uint8)
    return pictures.transpose(0, 2, 3, 1)
