"""The dream: gradient ascent on a picture, octave by octave, with one network or several that take turns."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ..autodiff.registry import RULES
from ..engines.base import HostOctaves, HostPicture, Picture, Session, Step
from ..engines.cache import SessionCache
from ..engines.select import select
from ..errors import NoGradientError, NotFiniteError, OptionError, PictureError
from ..graph.shapes import inputs_of
from ..images import from_batch, resize, to_batch
from ..networks.model import Layer, Model
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
# Pictures whose sides have so many pixels are not tried on the network: only small ones may come to nothing in it.
_SURE = 128

_OPTIONS = (
    "also", "octaves", "octave_scale", "steps", "step_size", "jitter", "bands", "colors", "headroom", "smooth", "half",
    "seed", "max_memory", "device", "threads",
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


@dataclass(frozen=True)
class _Part:
    """One network of a dream and what it climbs."""

    model: Model
    objective: Objective
    layers: tuple[Layer, ...]
    smallest: tuple[int, int]  # (height, width) in pixels, as far as windows tell
    fixed_input_size: tuple[int, int] | None
    multiple: int  # of pixels, that sides must be

    @classmethod
    def of(cls, model: Model, objective: Objective | None) -> _Part:
        objective = objective or l2(model.default_layer())
        names = objective.layers
        layers = tuple(model.layer(name) for name in names)
        smallest, fixed = model.smallest_picture(names, objective.places), model.fixed_input_size(names)
        return cls(model, objective, layers, smallest, fixed, model.size_multiple(names))

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether the layers have enough positions on pictures of a size (height, width) that is such a multiple."""
        places = self.objective.places
        fits = size[0] >= self.smallest[0] and size[1] >= self.smallest[1]
        if fits and min(size) >= _SURE and set(places.values()) == {(1, 1)}:
            return True
        return self.model.accepts(self.objective.layers, size, places)

    @property
    def smallest_accepted(self) -> tuple[int, int]:
        """The smallest (height, width) that the layers take, found by trying."""
        return self.model.smallest_accepted(self.objective.layers, self.objective.places)

    @property
    def weight(self) -> float:
        """That of its heaviest term."""
        return max((abs(weight) for weight, _ in self.objective.terms), default=0.0)

    def __str__(self) -> str:
        return ", ".join(self.objective.layers)


class Dreamer:
    """Dreams pictures with a network and an objective, or several; keeps the compiled graphs between pictures.

    Octaves go from small to large (Mordvintsev, Olah and Tyka 2015, "Inceptionism"): each starts from the source scaled
    to its size plus the detail dreamed so far, scaled up. The same arguments give the same bytes on the CPU.

    With several networks each step is a step with each of them in turn. How large these are goes by the networks'
    weights, that of a network being the largest of its objective's. Their squares are scaled to a sum of 1: since two
    networks' directions have little in common, they then make one step of the size that was asked for.

    Args:
        model: The network.
        objective: What to maximise. Default: the mean square of the network's default layer.
        also: Further networks, each with its objective or None for the default.
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
        also: Sequence[tuple[Model, Objective | None]] = (),
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
        self._parts = [_Part.of(*pair) for pair in ((model, objective), *also)]
        self.model, self.objective = model, self._parts[0].objective
        self.also = [(part.model, part.objective) for part in self._parts[1:]]
        self.octaves, self.octave_scale, self.steps = octaves, octave_scale, steps
        self.step_size, self.jitter, self.seed = step_size, jitter, seed
        self.bands, self.colors, self.headroom, self.smooth = tuple(bands), colors, headroom, smooth
        self.half, self.max_memory = half, max_memory
        self.device, self.threads = device, threads
        self._engine = select(device)
        self._sessions = SessionCache(self._engine, threads=threads, limit=max_memory)
        self._graphs: dict[tuple[int, str, bool, str], onnx.ModelProto] = {}
        self._tiles: dict[tuple[int, ...], Tiling | None] = {}
        self._left_out = 0  # octaves, as last noted
        self._padding_noted = False
        self._half_tried = False
        self.smallest = (max(part.smallest[0] for part in self._parts), max(part.smallest[1] for part in self._parts))
        fixed = {part.fixed_input_size: part for part in self._parts if part.fixed_input_size is not None}
        if len(fixed) > 1:
            sizes = ", ".join(f"{part} of {part.model.name} {w}x{h}" for (h, w), part in fixed.items())
            raise OptionError(f"these layers never take the same picture: {sizes}; choose an earlier layer of one")
        self.fixed_input_size = next(iter(fixed), None)
        self.size_multiple = math.lcm(*(part.multiple for part in self._parts))
        if self.fixed_input_size is not None and self.padded_size(self.fixed_input_size) != self.fixed_input_size:
            (h, w), multiple = self.fixed_input_size, self.size_multiple
            raise OptionError(
                f"these layers never take the same picture: one takes {w}x{h}, another multiples of {multiple} pixels; "
                "choose an earlier layer of one"
            )
        self._per_pixel = []
        for number, part in enumerate(self._parts):
            try:
                self._graph(number, "step", mask=False)  # whatever is wrong with the objective is found now
            except NoGradientError as error:
                near = ", ".join(_working_layers(part.model, part.objective.layers))
                raise NoGradientError(
                    f"{error}; {f'layers before it that work: {near}' if near else 'no layer works'}"
                ) from error
            self._per_pixel.append(bytes_per_pixel(self._graph(number, "objective", mask=False), part.model.probe))

    def __getstate__(self) -> dict[str, object]:
        """Copies have engine and sessions of their own, since they may go to another machine."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_engine", "_sessions")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._engine = select(self.device)
        self._sessions = SessionCache(self._engine, threads=self.threads, limit=self.max_memory)

    @functools.cached_property
    def smallest_accepted(self) -> tuple[int, int]:
        """The smallest (height, width) in pixels that all layers take, found by trying."""
        lows = [part.smallest_accepted for part in self._parts]
        return max(low[0] for low in lows), max(low[1] for low in lows)

    @property
    def models(self) -> list[Model]:
        """The networks."""
        return [part.model for part in self._parts]

    @property
    def layers(self) -> list[str]:
        """The names of all layers, network by network."""
        return [layer.name for part in self._parts for layer in part.layers]

    @property
    def goal(self) -> str:
        """What is maximised, in words; with several networks, by network."""
        if not self.also:
            return repr(self.objective)
        return "; ".join(f"{part.model.name}: {part.objective!r}" for part in self._parts)

    def with_objective(self, objective: Objective) -> Dreamer:
        """A Dreamer with the same settings and another objective for the first network.

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
            log.warning(f"{self.goal} does not respond to this picture, so nothing was dreamed")
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
        if mask is not None and (np.ndim(mask) != 2 or 0 in np.shape(mask) or not np.isfinite(mask).all()):
            raise PictureError(f"a mask must be [H,W] of numbers in 0..1; this one is {list(np.shape(mask))}")
        if (size := self.padded_size(source.shape[2:])) != source.shape[2:]:
            self._note_padding(source.shape[2:], size)
            around = None if mask is None else _padded(_mask_at(mask, source.shape[2:])[0, 0], size)
            options: dict[str, Any] = {"on_step": on_step, "rng": rng, "steps": steps, "step_size": step_size}
            dreamed, done, cancelled = self.ascend(_padded(source, size), mask=around, **options)
            return np.ascontiguousarray(dreamed[:, :, : source.shape[2], : source.shape[3]]), done, cancelled
        each = self.steps if steps is None else steps
        step_size = self.step_size if step_size is None else step_size
        rng = rng or np.random.default_rng(self.seed)
        for part in self._parts:
            if len(source) > 1 and part.model.one_at_a_time(part.objective.layers):
                raise PictureError(
                    f"{part.model.name} takes one picture at a time, not {len(source)}; dream them one by one"
                )
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
            The objective, the mean over the batch and, for large pictures, over tiles. Of several networks it is the
            weighted geometric mean, or where one is below 0 the arithmetic.

        Raises:
            NotFiniteError: It is NaN or infinite.
        """
        batch = _padded(batch, self.padded_size(batch.shape[2:]))
        tiling = self._tiling(batch.shape, reserved_bytes=2 * batch.nbytes)
        values = []
        for number, part in enumerate(self._parts):
            run = self._session(number, "objective", batch.shape, tiling).run
            value = run({"image": batch})["objective"] if tiling is None else tiling.objective(run, batch)
            if not np.isfinite(value).all():
                shown = batch if tiling is None else batch[:, :, : tiling.tile[0], : tiling.tile[1]]
                raise explain(part.model, part.objective, np.ascontiguousarray(shown), self._engine)
            values.append(value)
        return float(self._joint(values).mean())

    def check_size(self, size: tuple[int, ...]) -> None:
        """Check that pictures of a size can be dreamed.

        Args:
            size: (height, width) in pixels.

        Raises:
            PictureError: The layer does not take pictures of this size.
        """
        height, width = size
        for part in self._parts:
            fixed = part.fixed_input_size
            if fixed is not None and fixed != (height, width):
                raise PictureError(
                    f"{part} works only on pictures of {fixed[1]}x{fixed[0]}, not {width}x{height}; "
                    "resize the picture or choose an earlier layer"
                )
            if not part.takes(self.padded_size(size)):
                low = part.smallest_accepted
                raise PictureError(
                    f"a picture of {width}x{height} is too small for {part}, which needs at least {low[1]}x{low[0]}; "
                    "enlarge it or choose an earlier layer"
                )

    def padded_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """The size at which pictures are dreamed: each side rounded up to a multiple of `size_multiple`.

        Args:
            size: (height, width) in pixels.
        """
        height, width = (-(-side // self.size_multiple) * self.size_multiple for side in size)
        return height, width

    def _takes(self, size: tuple[int, int]) -> bool:
        """Whether all layers have positions on pictures of a size that is a multiple of `size_multiple`."""
        return min(size) > 0 and all(part.takes(size) for part in self._parts)

    def _note_padding(self, size: tuple[int, ...], padded: tuple[int, int]) -> None:
        """Say once, not for each frame of a video, that pictures are padded."""
        if not self._padding_noted:
            part = max(self._parts, key=lambda part: part.multiple)
            log.warning(
                f"{part} of {part.model.name} takes multiples of {part.multiple} pixels: {size[1]}x{size[0]} is "
                f"continued by reflection to {padded[1]}x{padded[0]}, and cut off again"
            )
            self._padding_noted = True

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
        (height, width), multiple = self.padded_size(size), self.size_multiple
        sizes, octaves = [], self.octaves if octaves is None else octaves
        for octave in reversed(range(octaves)):
            scale = self.octave_scale**octave * multiple
            at = (round(height / scale) * multiple, round(width / scale) * multiple)
            if at == self.fixed_input_size or (self.fixed_input_size is None and self._takes(at)):
                sizes.append(at)
        left_out = octaves - len(sizes)
        if left_out not in (0, self._left_out):  # noted once, not for each frame of a video
            part = max(self._parts, key=lambda part: part.smallest_accepted)
            low = part.smallest_accepted
            log.warning(f"{left_out} of {octaves} octaves left out: {part} needs {low[1]}x{low[0]}")
            self._left_out = left_out
        return sizes

    def provider(self, shape: tuple[int, ...]) -> str:
        """What computes dreams of a shape.

        Args:
            shape: [N,3,H,W] of a batch.

        Returns:
            ONNX Runtime's name of its provider, or the name of another engine.
        """
        shape = (*shape[:2], *self.padded_size(shape[2:]))
        tiling = self._tiling(shape, reserved_bytes=8 * math.prod(shape))
        return self._session(0, "objective", shape, tiling).provider

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
            raise self._explained(np.ascontiguousarray(shown))

    def _explained(self, image: np.ndarray) -> NotFiniteError:
        """What to say where a step from this picture is not finite, of the first network whose own is not."""
        for number, part in enumerate(self._parts[:-1]):
            if not self._is_finite(number, image):
                return explain(part.model, part.objective, image, self._engine)
        return explain(self._parts[-1].model, self._parts[-1].objective, image, self._engine)

    def _is_finite(self, number: int, image: np.ndarray) -> bool:
        """Whether a step with the network of this number is, from a picture of any size."""
        session = self._engine.open(self._graph(number, "step", mask=False), threads=self.threads)
        objective, _ = next(session.ascend(image, [(1.0, (0, 0))]))
        return bool(np.isfinite(objective).all())

    def _try_half_precision(self) -> None:
        """Leave half precision before anything is dreamed in it, where it does not even suffice for noise."""
        self._half_tried = True
        size = self.fixed_input_size or self.padded_size(tuple(max(128, low) for low in self.smallest))
        noise = np.random.default_rng(0).uniform(0, 255, (1, 3, *size)).astype(np.float32)
        if not all(self._is_finite(number, noise) for number in range(len(self._parts))):
            self._leave_half_precision()

    def _leave_half_precision(self) -> None:
        """Go on in single precision, and say so."""
        log.warning(f"{self.goal} gives NaN or infinity in half precision; single precision is used instead")
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
        if len(self._parts) == 1:
            yield from self._climb(0, image, shape, mask, rng, [(step_size, shift) for shift in shifts], tiling)
            return
        length = math.hypot(*(part.weight for part in self._parts)) or 1.0
        for shift in shifts:
            objectives = []
            for number, part in enumerate(self._parts):
                step = (step_size * part.weight / length, shift)
                for objective, picture in self._climb(number, image, shape, mask, rng, [step], tiling):
                    objectives.append(objective)
                    image = picture
            yield self._joint(objectives), picture

    def _climb(
        self,
        number: int,
        image: np.ndarray | Picture,
        shape: tuple[int, ...],
        mask: np.ndarray | None,
        rng: np.random.Generator,
        steps: Sequence[Step],
        tiling: Tiling | None,
    ) -> Iterator[tuple[np.ndarray, Picture]]:
        """Steps with one of the networks, as `Session.ascend` takes them, also in tiles."""
        if tiling is None:
            session = self._session(number, "step", shape, None, mask=mask is not None)
            yield from session.ascend(image, steps, mask)
            return
        gradients = self._session(number, "gradient", shape, tiling)
        tiled = image.fetch() if isinstance(image, Picture) else image.copy()
        for step_size, shift in steps:
            objective, gradient = tiling.gradient(gradients.run, tiled, shift, rng)
            if not np.isfinite(gradient.sum(dtype=np.float64)):
                objective = np.full_like(objective, np.nan)
            self._shaping.climb(tiled, gradient, step_size, mask)
            del gradient
            yield objective, HostPicture(tiled)

    def _joint(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """One objective [N] of all networks' own; see `measure`."""
        if len(values) == 1:
            return values[0]
        weights = [part.weight for part in self._parts]
        if not any(weights):
            weights = [1.0] * len(values)
        if np.min(values) > 0:
            mean: np.ndarray = np.exp(np.average(np.log(values), axis=0, weights=weights))
        else:
            mean = np.average(values, axis=0, weights=weights)
        return mean

    def _graph(self, number: int, kind: str, *, mask: bool) -> onnx.ModelProto:
        """A graph of the network of this number."""
        target = self._engine.target
        key = (number, kind, mask, target)
        if key not in self._graphs:
            part, shaping = self._parts[number], self._shaping.options()
            about = (part.model, part.objective)
            build: dict[str, Callable[[], onnx.ModelProto]] = {
                "step": lambda: build_step_model(*about, **shaping, mask=mask, target=target, half=self.half),
                "gradient": lambda: build_gradient_model(*about, target=target, half=self.half),
                "objective": lambda: build_objective_model(*about, target=target),
            }
            self._graphs[key] = build[kind]()
        return self._graphs[key]

    def _session(
        self, number: int, kind: str, shape: tuple[int, ...], tiling: Tiling | None, *, mask: bool = False
    ) -> Session:
        """The session that runs such graphs on batches of this shape, or on their tiles."""
        batch, _, height, width = (*shape[:2], *tiling.tile) if tiling else shape
        held = step_bytes(self._per_pixel[number], (height, width), batch)
        if tiling:
            held = self.max_memory / len(self._parts)
        graph = self._graph(number, kind, mask=mask)
        return self._sessions.at((number, kind, mask), graph, (batch, height, width), held)

    def _tiling(self, shape: tuple[int, ...], *, reserved_bytes: int) -> Tiling | None:
        """How to tile pictures of this shape, or None where one step fits into `max_memory`.

        `reserved_bytes` is what pictures of other sizes take meanwhile.
        """
        key = (*shape, reserved_bytes)
        if key not in self._tiles:
            batch, _, height, width = shape
            size, limit = (height, width), self.max_memory - reserved_bytes
            per_pixel = sum(self._per_pixel)  # the networks' sessions stay open side by side
            needed = (step_bytes(per_pixel, size, batch) + reserved_bytes) / 2**20
            layers = [layer for part in self._parts for layer in part.layers]
            local = all(part.objective.local for part in self._parts) and all(layer.spatial for layer in layers)
            if needed > self.max_memory / 2**20 and not (local and self.fixed_input_size is None):
                raise PictureError(
                    f"a picture of {width}x{height} needs {needed:.0f} MiB, and {self.goal} looks at all of it, "
                    f"so it cannot be tiled; make it smaller or raise --max-memory to {needed + 1:.0f}M"
                )
            tiling = plan_tiles(layers, self.smallest, size, per_pixel, limit, batch=batch, multiple=self.size_multiple)
            wide = ", ".join(layer.name for layer in layers if math.isinf(layer.receptive_field))
            if tiling is not None and wide:
                log.warning(f"{wide} sees the whole picture; in tiles it sees only the tile")
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
    size = model.fixed_input_size([layer], channels=True) or model.nearest_size([layer], size)
    engine = select(device)
    graph = build_feature_model(model, layer, target=engine.target)
    session = engine.open(graph, fixed_shapes={"N": 1, "H": size[0], "W": size[1]})
    shown = resize(batch, size)
    activation = session.run({"image": shown})["features"]
    if not np.isfinite(activation).all():
        raise explain_activation(model, layer, shown, engine)
    return activation


def _padded(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """`array` [...,H,W] continued by reflection at the bottom and on the right to `size` (height, width)."""
    more = [(0, side - length) for side, length in zip(size, array.shape[-2:], strict=True)]
    if more == [(0, 0), (0, 0)]:
        return array
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + more, mode="reflect")


def _mask_at(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    shrinks = mask.shape[0] > size[0] or mask.shape[1] > size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    scaled = cv2.resize(np.asarray(mask, np.float32), size[::-1], interpolation=method)
    return np.clip(scaled, 0, 1)[None, None]


def _as_pictures(picture: Picture) -> np.ndarray:
    """A picture as uint8 [N,H,W,3]."""
    pictures: np.ndarray = np.rint(picture.fetch()).astype(np.uint8)
    return pictures.transpose(0, 2, 3, 1)
