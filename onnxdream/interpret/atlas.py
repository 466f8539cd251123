"""The atlas: a folder of pages that show every channel of a network's layers, without a server.

    folder/
      index.html  LAYER.html …  atlas.css  atlas.js
      atlas.json                     the settings, which a later run must share to continue
      LAYER/statistics.json          the statistics of the layer over the pictures
      LAYER/patches-12.jpg           the patches that excite channel 12 most
      LAYER/channel-12.jpg           the picture made for channel 12

Files are written atomically, and what exists is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..cluster.ray import RayCluster, ReportProgress
from ..errors import LayerError, OptionError, OutputError, PictureError
from ..images import write_frames, write_whole
from ..networks.model import Layer, Model
from ..objectives import channel
from ..settings import parse_channels
from . import site
from .top_activations import input_size, picture_files, read_crops, record_top_activations, top_patches
from .visualizer import BATCH_PER_THREAD, Visualizer

_PATCH_COUNT, _PATCH_SIDE = 8, 80
_STATISTICS = "statistics.json"
_LAYERS_WITHOUT_CARD = 8


@dataclass(frozen=True)
class AtlasProgress:
    """Progress that `make_atlas` reports.

    Attributes:
        layer: The layer it works on.
        done: How many pictures have been analysed and channels visualised.
        total: How many there are to do.
    """

    layer: str
    done: int
    total: int


@dataclass(frozen=True)
class AtlasPlan:
    """What an atlas shows and how its pictures are made.

    Attributes:
        model: The network's name.
        network: The digest of its file, see `network_digest`.
        layers: The layers' names, in the network's order.
        channels: "all", or numbers and ranges such as "0-15".
        images: The folder of pictures to analyse, empty for none.
        recipe: The visualisations' recipe, one of `RECIPES`.
        steps: The ascent steps of each visualisation.
        size: The side of each visualisation in pixels.
        seed: The seed of the noise they start from.
    """

    model: str
    network: str
    layers: tuple[str, ...]
    channels: str
    images: str
    recipe: str
    steps: int
    size: int
    seed: int


@dataclass(frozen=True)
class AtlasResult:
    """What `make_atlas` did.

    Attributes:
        layers: The layers that the atlas shows now.
        made: How many of their channels were visualised in this run.
        found: How many had been visualised before.
        inactive: {layer: channels} whose visualisation of this run leaves the channel inactive.
        cancelled: Whether `on_progress` returned False; the rest can be made later.
    """

    layers: tuple[str, ...]
    made: int
    found: int
    inactive: dict[str, list[int]]
    cancelled: bool = False


class _CancelledError(Exception):
    """`on_progress` returned False."""


@dataclass(frozen=True)
class ChannelBatch:
    """Channels of a layer that are visualised together, in pictures of `size` (height, width)."""

    layer: str
    channels: tuple[int, ...]
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.layer}, channels {self.channels[0]} to {self.channels[-1]}"


@dataclass(frozen=True)
class BatchVisualizer:
    """Visualises batches, in this process or on a machine of a cluster, with a Visualizer for each size."""

    visualizers: dict[tuple[int, int], Visualizer]

    def __call__(self, batch: ChannelBatch, report: ReportProgress | None = None) -> tuple[np.ndarray, list[int]]:
        """The pictures of a batch, uint8 [n,H,W,3], and the channels that stay inactive on their own."""
        visualizer, goals = self.visualizers[batch.size], [channel(batch.layer, c) for c in batch.channels]
        pictures = visualizer(goals).pictures
        inactive = visualizer.find_inactive(goals, visualizer.measure(goals, pictures))
        return pictures, [batch.channels[position] for position in inactive]


def select_layers(model: Model, names: Sequence[str]) -> tuple[str, ...]:
    """The layers that an atlas shows.

    Args:
        model: The network.
        names: The layers' names; "all" for every one. Without names, the recommended ones, or 8 spread over the
            network.

    Returns:
        The names in the network, each once.

    Raises:
        LayerError: The network has no such layer, or no spatial layer to choose.
    """
    if "all" in names:
        return tuple(model.layers)
    if names:
        return tuple(dict.fromkeys(model.layer(name).name for name in names))
    if model.card.recommended:
        return tuple(model.layer(name).name for name in model.card.recommended)
    spatial = [layer.name for layer in model.layers.values() if layer.spatial]
    if not spatial:
        raise LayerError(f"{model.name} has no spatial layer; name the layers to show")
    spread = np.linspace(0, len(spatial) - 1, min(len(spatial), _LAYERS_WITHOUT_CARD)).round().astype(int)
    return tuple(dict.fromkeys(spatial[i] for i in spread))


def make_atlas(
    model: Model,
    folder: Path,
    plan: AtlasPlan,
    *,
    device: str = "auto",
    threads: int = 0,
    cluster: RayCluster | None = None,
    on_progress: Callable[[AtlasProgress], bool | None] = lambda progress: None,
    on_skip: Callable[[str], None] = lambda message: None,
) -> AtlasResult:
    """Make an atlas, or continue one that was interrupted.

    If it is interrupted or cancelled, the pages show what has been made so far.

    Args:
        model: The network.
        folder: Where to; it is created if necessary. If it contains an atlas, the layers of `plan` are added to it.
        plan: What to show.
        device: The device to compute on.
        threads: The number of CPU threads, 0 for all.
        cluster: A cluster whose machines make the visualisations, each with the threads of its workers.
        on_progress: Called after each picture and each batch of channels. If it returns False, no more are made.
        on_skip: Called with a message for each picture that cannot be read; the picture is skipped.

    Returns:
        What was made and what was found; with `cancelled=True` if `on_progress` returned False.

    Raises:
        OptionError: The folder contains an atlas with other settings, or `plan` is out of range; see `Visualizer`.
        OutputError: The folder cannot be written, or contains something else.
        PictureError: The folder of pictures contains none that can be read, or a layer does not take the size.
        LayerError: A layer does not have the channels.
        ClusterError: The cluster cannot be used.
    """
    plan = _merge_existing(folder, plan, model)
    layers = [model.layer(name) for name in plan.layers]
    numbers = {layer.name: _select_numbers(layer, plan.channels) for layer in layers}
    sizes = {
        layer.name: model.fixed_input_size([layer.name], channels=True)
        or model.nearest_size([layer.name], (plan.size, plan.size))
        for layer in layers
    }
    threads = threads if cluster is None else cluster.cpus_per_worker
    options: dict[str, Any] = {
        "recipe": plan.recipe,
        "steps": plan.steps,
        "seed": plan.seed,
        "device": device,
        "threads": threads,
    }
    visualize = {size: Visualizer(model, size=size, **options) for size in set(sizes.values())}
    for layer in layers:
        visualize[sizes[layer.name]].check([channel(layer.name, numbers[layer.name][0])])
    files = picture_files(Path(plan.images)) if plan.images else []
    read: dict[tuple[int, int], list[np.ndarray]] = {}
    without_statistics = [
        layer for layer in layers if files and not _read_statistics(folder, layer.name, numbers[layer.name])
    ]
    for size in {input_size(model, layer.name) for layer in without_statistics}:
        read[size] = list(read_crops(files, size, on_skip))
        if not read[size]:
            raise PictureError(f"{plan.images}: none of its pictures can be read; name a folder of PNG or JPEG files")
    _create_folders(folder, plan)
    missing = {name: [c for c in numbers[name] if not _is_nonempty(_picture_path(folder, name, c))] for name in numbers}
    looked_at = sum(len(read[input_size(model, layer.name)]) for layer in without_statistics)
    total, done = looked_at + sum(map(len, missing.values())), 0
    created, cancelled = 0, False
    inactive: dict[str, list[int]] = defaultdict(list)

    def advance(layer: str, by: int = 1) -> None:
        nonlocal done
        done += by
        if on_progress(AtlasProgress(layer, done, total)) is False:
            raise _CancelledError

    try:
        for layer in without_statistics:
            pictures, advanced = read[input_size(model, layer.name)], partial(advance, layer.name)
            _write_statistics(model, layer, numbers[layer.name], pictures, folder, device, advanced)
        at_once = BATCH_PER_THREAD * next(iter(visualize.values())).threads
        batches = [
            ChannelBatch(name, tuple(left[i : i + at_once]), sizes[name])
            for name, left in missing.items()
            for i in range(0, len(left), at_once)
        ]
        unfinished = Counter(batch.layer for batch in batches)
        for batch, (made, newly_inactive) in _visualize_batches(BatchVisualizer(visualize), batches, cluster):
            if newly_inactive:
                inactive[batch.layer] += newly_inactive
            for c, picture in zip(batch.channels, made, strict=True):
                _save_jpeg(_picture_path(folder, batch.layer, c), picture)
            created += len(batch.channels)
            advance(batch.layer, len(batch.channels))
            unfinished[batch.layer] -= 1
            if not unfinished[batch.layer]:
                _render(model, folder, plan, layers, numbers)
    except _CancelledError:
        cancelled = True
    finally:
        _render(model, folder, plan, layers, numbers)
    found = sum(len(numbers[name]) - len(missing[name]) for name in numbers)
    return AtlasResult(plan.layers, created, found, dict(inactive), cancelled)


def _visualize_batches(
    visualize: BatchVisualizer, batches: Sequence[ChannelBatch], cluster: RayCluster | None
) -> Iterable[tuple[ChannelBatch, tuple[np.ndarray, list[int]]]]:
    """Each batch with what `BatchVisualizer` returns for it, as they are finished."""
    if cluster is None:
        return ((batch, visualize(batch)) for batch in batches)
    return cluster.map(visualize, batches)


def network_digest(model: Model) -> str:
    """A digest of the network's file, 16 hexadecimal digits: it distinguishes networks of the same name."""
    data = model.path.read_bytes() if model.path else model.proto.SerializeToString()
    return hashlib.sha256(data).hexdigest()[:16]


def _select_numbers(layer: Layer, channels: str) -> tuple[int, ...]:
    """The channels of the plan that the layer has. Raises LayerError if it has none of them."""
    if channels == "all":
        return tuple(range(layer.channels))
    numbers = tuple(c for c in dict.fromkeys(parse_channels(channels)) if c < layer.channels)
    if not numbers:
        raise LayerError(f"layer {layer.name} has channels 0 to {layer.channels - 1}; there is no channel {channels}")
    return numbers


def _merge_existing(folder: Path, plan: AtlasPlan, model: Model) -> AtlasPlan:
    """`plan` with the layers of the atlas that the folder already contains, in the network's order.

    Raises OptionError if that atlas has other settings, and OutputError if the folder contains something else.
    """
    note = folder / "atlas.json"
    try:
        if not note.is_file():
            if folder.is_dir() and any(folder.iterdir()):
                raise OutputError(f"{folder}: is not empty and contains no atlas; choose another folder")
            return plan
        there = json.loads(note.read_text(encoding="utf-8"))
        before = AtlasPlan(**{**there, "layers": tuple(there["layers"])})
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used ({error.strerror}); choose another folder") from error
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{note}: cannot be read; remove it or choose another folder") from error
    wrong = [key for key, value in asdict(plan).items() if key != "layers" and getattr(before, key) != value]
    if wrong:
        raise OptionError(
            f"{folder}: contains an atlas with other settings ({', '.join(wrong)}); repeat those or name another folder"
        )
    both = {*before.layers, *plan.layers}
    return replace(plan, layers=tuple(name for name in model.layers if name in both))


def _create_folders(folder: Path, plan: AtlasPlan) -> None:
    """Create the folders and write the plan. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        site.write_text(folder / "atlas.json", json.dumps(asdict(plan), indent=1))
        for name in plan.layers:
            (folder / site.slug(name)).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}; choose another folder") from error


def _write_statistics(
    model: Model, layer: Layer, numbers: Sequence[int], pictures: list[np.ndarray], folder: Path, device: str,
    on_picture: Callable[[], None],
) -> None:  # fmt: skip
    """Write the layer's patches and then, when they are complete, its statistics."""
    found = record_top_activations(model, layer.name, pictures, device=device, on_picture=on_picture)
    for c in numbers:
        strip = top_patches(found, c, pictures, layer.receptive_field, _PATCH_COUNT, _PATCH_SIDE)
        if strip is not None:
            _save_jpeg(folder / site.slug(layer.name) / f"patches-{c}.jpg", strip)
    record: dict[str, Any] = {
        str(c): {
            "mean": float(found.mean[c]), "deviation": float(found.deviation[c]), "active": float(found.active[c]),
            "peaks": [round(float(v), 5) for v in np.sort(found.peaks[c])[::-1]],
        }
        for c in numbers
    }  # fmt: skip
    site.write_text(folder / site.slug(layer.name) / _STATISTICS, json.dumps(record))


def _render(
    model: Model, folder: Path, plan: AtlasPlan, layers: Sequence[Layer], numbers: dict[str, tuple[int, ...]]
) -> None:
    """Write the pages for what has been made so far."""
    shown = []
    for layer in layers:
        home, statistics = site.slug(layer.name), _read_statistics(folder, layer.name, numbers[layer.name])
        there = {path.name for path in (folder / home).iterdir() if _is_nonempty(path)}
        labels = model.card.labels if not layer.spatial and len(model.card.labels) == layer.channels else ()
        cells = [
            site.Channel(c, home, there, labels[c] if labels else "", statistics.get(str(c)))
            for c in numbers[layer.name]
        ]
        shown.append(site.Page(layer, home, cells))
    site.write(folder, model.card.title or model.name, asdict(plan), shown)


def _save_jpeg(path: Path, picture: np.ndarray) -> None:
    write_whole(path, lambda to: write_frames(to, [picture], quality=88))


def _picture_path(folder: Path, layer: str, number: int) -> Path:
    return folder / site.slug(layer) / f"channel-{number}.jpg"


def _is_nonempty(path: Path) -> bool:
    """Whether the file exists and is not empty; a full disk or an aborted copy leaves empty files."""
    return path.is_file() and path.stat().st_size > 0


def _read_statistics(folder: Path, layer: str, numbers: Sequence[int]) -> dict[str, Any]:
    """The statistics of the channels `numbers`, by number; empty if they are missing or damaged."""
    try:
        record = json.loads((folder / site.slug(layer) / _STATISTICS).read_text(encoding="utf-8"))
        whole = all({"mean", "deviation", "active", "peaks"} <= record[str(c)].keys() for c in numbers)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return record if whole else {}
