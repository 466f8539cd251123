"""The atlas: a folder that shows every channel of a network's layers, as a site that needs no server.

    folder/
      index.html  LAYER.html …  atlas.css  atlas.js
      atlas.json                     the settings, which a second run must share to go on
      LAYER/statistics.json          what excites the layer in the pictures
      LAYER/patches-12.jpg           the patches that excite channel 12 most
      LAYER/channel-12.jpg           the picture made for it

Every file is written whole or not at all, and what is there is not made again.
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
from PIL import Image

from ..cluster.ray import RayCluster, ReportProgress
from ..errors import LayerError, OptionError, OutputError, PictureError
from ..images import write_whole
from ..networks.model import Layer, Model
from ..objectives import channel
from ..settings import parse_channels
from . import site
from .top_activations import excitement, patches, picture_files, picture_size, readable
from .visualizer import BATCH, Visualizer

_PATCHES, _PATCH_SIDE = 8, 80
_STATISTICS = "statistics.json"
_LAYERS_WITHOUT_CARD = 8


@dataclass(frozen=True)
class Progress:
    """Reported to `on_progress`: `done` of `total` pieces, pictures looked at and channels visualised."""

    layer: str
    done: int
    total: int


@dataclass(frozen=True)
class Plan:
    """What an atlas shows and how its pictures are made."""

    model: str
    network: str  # the fingerprint of its file
    layers: tuple[str, ...]
    channels: str  # "all", or numbers such as 0-15
    images: str  # the folder of pictures, "" for none
    recipe: str
    steps: int
    size: int
    seed: int


@dataclass(frozen=True)
class Made:
    """What `make_atlas` did: the layers that the atlas has by now, how many of their channels it made or found made.

    `shut` are those made now whose picture does not excite them at all.
    """

    layers: tuple[str, ...]
    made: int
    found: int
    shut: dict[str, list[int]]


@dataclass(frozen=True)
class Batch:
    """Channels of a layer whose pictures, of `size` (height, width), are made together."""

    layer: str
    channels: tuple[int, ...]
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.layer}, channels {self.channels[0]} to {self.channels[-1]}"


@dataclass(frozen=True)
class Climbers:
    """Makes the pictures of a batch, here or on a machine of a cluster; a Visualizer for each size."""

    of_size: dict[tuple[int, int], Visualizer]

    def __call__(self, batch: Batch, report: ReportProgress | None = None) -> tuple[np.ndarray, list[int]]:
        """The pictures of a batch, uint8 [n,H,W,3], and those of its channels that stay shut on theirs."""
        visualizer, goals = self.of_size[batch.size], [channel(batch.layer, c) for c in batch.channels]
        pictures = visualizer(goals)
        shut = visualizer.unreached(goals, visualizer.measure(goals, pictures))
        return pictures, [batch.channels[position] for position in shut]


def chosen_layers(model: Model, names: Sequence[str]) -> tuple[str, ...]:
    """The layers named, "all" for every one; without names the recommended ones, or 8 spread over the network."""
    if "all" in names:
        return tuple(model.layers)
    if names:
        return tuple(dict.fromkeys(model.layer(name).name for name in names))
    if model.card.recommended:
        return tuple(model.layer(name).name for name in model.card.recommended)
    spatial = [layer.name for layer in model.layers.values() if layer.spatial]
    if not spatial:
        raise LayerError(f"{model.name} has no layer with places; name the layers to show")
    spread = np.linspace(0, len(spatial) - 1, min(len(spatial), _LAYERS_WITHOUT_CARD)).round().astype(int)
    return tuple(dict.fromkeys(spatial[i] for i in spread))


def make_atlas(
    model: Model,
    folder: Path,
    plan: Plan,
    *,
    device: str = "auto",
    threads: int = 0,
    cluster: RayCluster | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_skip: Callable[[str], None] = lambda message: None,
) -> Made:
    """Make the atlas `plan` of `model` in `folder`, or go on with it.

    With `cluster` its machines make the channels' pictures. Pictures that cannot be read are told to `on_skip` and left
    out. Interrupted, it leaves a site that shows what there is. Raises OptionError when the folder holds an atlas of
    other settings, OutputError when it cannot be written, PictureError for a folder without pictures, ClusterError, and
    what `Visualizer` raises.
    """
    plan = _joined(folder, plan, model)
    layers = [model.layer(name) for name in plan.layers]
    numbers = {layer.name: _numbers(layer, plan.channels) for layer in layers}
    sizes = {
        layer.name: model.fixed_input_size([layer.name], channels=True) or (plan.size, plan.size) for layer in layers
    }
    threads = threads if cluster is None else cluster.cpus_per_worker
    look: dict[str, Any] = {
        "recipe": plan.recipe,
        "steps": plan.steps,
        "seed": plan.seed,
        "device": device,
        "threads": threads,
    }
    climbers = {size: Visualizer(model, size=size, **look) for size in set(sizes.values())}
    for layer in layers:
        climbers[sizes[layer.name]].check([channel(layer.name, numbers[layer.name][0])])
    files = picture_files(Path(plan.images)) if plan.images else []
    read: dict[tuple[int, int], list[np.ndarray]] = {}
    unseen = [layer for layer in layers if files and not _statistics(folder, layer.name, numbers[layer.name])]
    for size in {picture_size(model, layer.name) for layer in unseen}:
        read[size] = list(readable(files, size, on_skip))
        if not read[size]:
            raise PictureError(f"{plan.images}: none of its pictures can be read; name a folder of PNG or JPEG files")
    _open(folder, plan)
    missing = {name: [c for c in numbers[name] if not _is_whole(_picture(folder, name, c))] for name in numbers}
    looks = sum(len(read[picture_size(model, layer.name)]) for layer in unseen)
    total, done = looks + sum(map(len, missing.values())), 0
    shut: dict[str, list[int]] = defaultdict(list)

    def advance(layer: str, by: int = 1) -> None:
        nonlocal done
        done += by
        on_progress(Progress(layer, done, total))

    try:
        for layer in unseen:
            pictures, advanced = read[picture_size(model, layer.name)], partial(advance, layer.name)
            _look(model, layer, numbers[layer.name], pictures, folder, device, advanced)
        at_once = BATCH * next(iter(climbers.values())).threads
        batches = [
            Batch(name, tuple(left[i : i + at_once]), sizes[name])
            for name, left in missing.items()
            for i in range(0, len(left), at_once)
        ]
        unfinished = Counter(batch.layer for batch in batches)
        for batch, (made, left_shut) in _made(Climbers(climbers), batches, cluster):
            if left_shut:
                shut[batch.layer] += left_shut
            for c, picture in zip(batch.channels, made, strict=True):
                _save(_picture(folder, batch.layer, c), picture)
            advance(batch.layer, len(batch.channels))
            unfinished[batch.layer] -= 1
            if not unfinished[batch.layer]:
                _render(model, folder, plan, layers, numbers)
    finally:
        _render(model, folder, plan, layers, numbers)
    made_now = sum(map(len, missing.values()))
    return Made(plan.layers, made_now, sum(map(len, numbers.values())) - made_now, dict(shut))


def _made(
    climbers: Climbers, batches: Sequence[Batch], cluster: RayCluster | None
) -> Iterable[tuple[Batch, tuple[np.ndarray, list[int]]]]:
    """Each batch with what `Climbers` give for it, as they are finished."""
    if cluster is None:
        return ((batch, climbers(batch)) for batch in batches)
    return cluster.map(climbers, batches)


def fingerprint(model: Model) -> str:
    """What tells networks of the same name apart."""
    data = model.path.read_bytes() if model.path else model.proto.SerializeToString()
    return hashlib.sha256(data).hexdigest()[:16]


def _numbers(layer: Layer, channels: str) -> tuple[int, ...]:
    """The layer's own of the channels that the plan names. Raises LayerError when that leaves none."""
    if channels == "all":
        return tuple(range(layer.channels))
    numbers = tuple(c for c in dict.fromkeys(parse_channels(channels)) if c < layer.channels)
    if not numbers:
        raise LayerError(f"layer {layer.name} has channels 0 to {layer.channels - 1}; there is no channel {channels}")
    return numbers


def _joined(folder: Path, plan: Plan, model: Model) -> Plan:
    """`plan` with the layers of the atlas that is in `folder` already, in the network's order.

    Raises OptionError where that has other settings, and OutputError where there is something else.
    """
    note = folder / "atlas.json"
    try:
        if not note.is_file():
            if folder.is_dir() and any(folder.iterdir()):
                raise OutputError(f"{folder}: is not empty and holds no atlas; choose another folder")
            return plan
        there = json.loads(note.read_text(encoding="utf-8"))
        before = Plan(**{**there, "layers": tuple(there["layers"])})
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used ({error.strerror}); choose another folder") from error
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{note}: cannot be read; take it away or choose another folder") from error
    wrong = [key for key, value in asdict(plan).items() if key != "layers" and getattr(before, key) != value]
    if wrong:
        raise OptionError(
            f"{folder}: holds an atlas with other settings ({', '.join(wrong)}); repeat those or choose another folder"
        )
    both = {*before.layers, *plan.layers}
    return replace(plan, layers=tuple(name for name in model.layers if name in both))


def _open(folder: Path, plan: Plan) -> None:
    """Make the folders and note the plan. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        site.write_text(folder / "atlas.json", json.dumps(asdict(plan), indent=1))
        for name in plan.layers:
            (folder / site.slug(name)).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}; choose another folder") from error


def _look(
    model: Model, layer: Layer, numbers: Sequence[int], pictures: list[np.ndarray], folder: Path, device: str,
    on_picture: Callable[[], None],
) -> None:  # fmt: skip
    """Write the layer's patches and, when all are there, its statistics."""
    found = excitement(model, layer.name, pictures, device=device, on_picture=on_picture)
    for c in numbers:
        strip = patches(found, c, pictures, layer.receptive_field, _PATCHES, _PATCH_SIDE)
        if strip is not None:
            _save(folder / site.slug(layer.name) / f"patches-{c}.jpg", strip)
    record: dict[str, Any] = {
        str(c): {
            "mean": float(found.mean[c]), "deviation": float(found.deviation[c]), "active": float(found.active[c]),
            "peaks": [round(float(v), 5) for v in np.sort(found.peaks[c])[::-1]],
        }
        for c in numbers
    }  # fmt: skip
    site.write_text(folder / site.slug(layer.name) / _STATISTICS, json.dumps(record))


def _render(
    model: Model, folder: Path, plan: Plan, layers: Sequence[Layer], numbers: dict[str, tuple[int, ...]]
) -> None:
    """Write the pages for what there is by now."""
    shown = []
    for layer in layers:
        home, statistics = site.slug(layer.name), _statistics(folder, layer.name, numbers[layer.name])
        there = {path.name for path in (folder / home).iterdir() if _is_whole(path)}
        labels = model.card.labels if not layer.spatial and len(model.card.labels) == layer.channels else ()
        cells = [
            site.Channel(c, home, there, labels[c] if labels else "", statistics.get(str(c)))
            for c in numbers[layer.name]
        ]
        shown.append(site.Page(layer, home, cells))
    site.write(folder, model.card.title or model.name, asdict(plan), shown)


def _save(path: Path, picture: np.ndarray) -> None:
    write_whole(path, lambda to: Image.fromarray(picture).save(to, quality=88))


def _picture(folder: Path, layer: str, number: int) -> Path:
    return folder / site.slug(layer) / f"channel-{number}.jpg"


def _is_whole(path: Path) -> bool:
    """Whether there is a file with something in it; a full disk, or a copy that broke off, leaves empty ones."""
    return path.is_file() and path.stat().st_size > 0


def _statistics(folder: Path, layer: str, numbers: Sequence[int]) -> dict[str, Any]:
    """What `_look` noted of the channels `numbers`, by number; empty where that is not there or damaged."""
    try:
        record = json.loads((folder / site.slug(layer) / _STATISTICS).read_text(encoding="utf-8"))
        whole = all({"mean", "deviation", "active", "peaks"} <= record[str(c)].keys() for c in numbers)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return record if whole else {}
