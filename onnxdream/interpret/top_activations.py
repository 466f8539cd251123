"""The activations of each channel over a folder of pictures: statistics, and the patches that excite it most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..dream.finite import explain_activation
from ..dream.step_graph import build_feature_model
from ..engines.select import select
from ..errors import PictureError
from ..images import ENDINGS, read_picture, resize, to_batch
from ..networks.model import Model

_DEFAULT_SIDE = 224  # pixels; pictures are resized to this where the card names no size
_PATCHES_PER_ROW = 4  # patches side by side
_MIN_PATCH = 32  # pixels of the picture; smaller patches would show nothing recognisable


@dataclass(frozen=True)
class TopActivations:
    """The activations of one layer's C channels on n pictures.

    Attributes:
        mean: [C] over pictures and positions.
        deviation: [C], the standard deviation over pictures and positions.
        active: [C], the fraction of positions above 0.
        peaks: [C,n], the highest activation in each picture.
        places: [C,n,2], where that is: (y, x) in 0..1 of the picture.
        means: [C,n], the mean activation in each picture.
    """

    mean: np.ndarray
    deviation: np.ndarray
    active: np.ndarray
    peaks: np.ndarray
    places: np.ndarray
    means: np.ndarray


def picture_files(folder: Path) -> list[Path]:
    """The picture files in a folder, sorted by name.

    Raises:
        PictureError: The folder does not exist, cannot be read or contains no pictures.
    """
    try:
        if not folder.is_dir():
            reason = "is not a folder" if folder.exists() else "no such folder"
            raise PictureError(f"{folder}: {reason}; name a folder of pictures")
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
    except OSError as error:
        raise PictureError(f"{folder}: cannot be read ({error.strerror}); name another folder") from error
    if not files:
        raise PictureError(f"{folder}: contains no pictures ({', '.join(sorted(ENDINGS))})")
    return files


def read_center_crop(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read the largest centred part of a picture that has the proportions of `size`, and resize it.

    Args:
        path: The picture.
        size: (height, width) in pixels.

    Returns:
        Float32 RGB [1,3,*size] in 0..255.

    Raises:
        PictureError: The file cannot be read as a picture.
    """
    rgb = read_picture(path, say=lambda text: None).rgb
    height, width = rgb.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    enlarged = resize(to_batch(rgb), (max(size[0], round(height * scale)), max(size[1], round(width * scale))))
    top, left = (enlarged.shape[2] - size[0]) // 2, (enlarged.shape[3] - size[1]) // 2
    return np.asarray(np.clip(enlarged[:, :, top : top + size[0], left : left + size[1]], 0, 255))


def input_size(model: Model, layer: str) -> tuple[int, int]:
    """The (height, width) to which pictures are resized for `layer`."""
    low = model.smallest_picture([layer])
    height, width = model.card.size or (_DEFAULT_SIDE, _DEFAULT_SIDE)
    size = (max(low[0], height), max(low[1], width))
    return model.fixed_input_size([layer], channels=True) or model.nearest_size([layer], size)


def record_top_activations(
    model: Model,
    layer: str,
    pictures: Sequence[np.ndarray],
    *,
    device: str = "auto",
    on_picture: Callable[[], None] = lambda: None,
) -> TopActivations:
    """Compute the statistics of a layer's channels over pictures.

    Args:
        model: The network.
        layer: The layer's name.
        pictures: At least one, each uint8 RGB [1,3,H,W] of the size that `input_size` returns.
        device: The device to compute on.
        on_picture: Called after each picture.

    Returns:
        The statistics, with one column for each picture.

    Raises:
        NotFiniteError: The layer gives NaN or infinity.
    """
    size = pictures[0].shape[2:]
    fixed = {"N": 1, "H": size[0], "W": size[1]}
    engine = select(device)
    session = engine.open(build_feature_model(model, layer, target=engine.target), fixed_shapes=fixed)
    rows: list[tuple[np.ndarray, ...]] = []
    for picture in pictures:
        shown = picture.astype(np.float32)
        activation = session.run({"image": shown})["features"][0]
        if not np.isfinite(activation).all():
            raise explain_activation(model, layer, shown, engine)
        rows.append(_summarize(activation))
        on_picture()
    means, squares, active, peaks, places = (np.stack(part, 1) for part in zip(*rows, strict=True))
    mean = means.mean(1)
    deviation = np.sqrt(np.maximum(squares.mean(1) - mean**2, 0))
    return TopActivations(mean, deviation, active.mean(1), peaks, places, means)


def _summarize(answer: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean, mean square, fraction above 0, maximum and its place, of each channel of [C,h,w], [tokens,C] or [C]."""
    shape = answer.shape[1:] if answer.ndim == 3 else (1, 1)
    flat = answer.T if answer.ndim == 2 else answer.reshape(answer.shape[0], -1)
    best = flat.argmax(1)
    middle = np.full((flat.shape[0], 2), 0.5)
    places = np.stack([(best // shape[1] + 0.5) / shape[0], (best % shape[1] + 0.5) / shape[1]], 1)
    squares = (flat.astype(np.float64) ** 2).mean(1)
    return (
        flat.mean(1, dtype=np.float64),
        squares,
        (flat > 0).mean(1),
        flat.max(1),
        middle if shape == (1, 1) else places,
    )


def top_patches(
    found: TopActivations, channel: int, pictures: Sequence[np.ndarray], field: float, count: int, side: int
) -> np.ndarray | None:
    """The patches of different pictures that excite a channel most, in rows of four.

    Args:
        found: The layer's statistics over `pictures`.
        channel: The channel's number.
        pictures: Each uint8 [1,3,H,W].
        field: The width of a patch in pixels of the picture, that is, the layer's receptive field; infinity for the
            whole picture.
        count: How many patches at most; pictures in which the channel stays at 0 are omitted.
        side: The width and height of a patch in the result, in pixels.

    Returns:
        Uint8 RGB [H,W,3], or None if the channel stays at 0 in all pictures.
    """
    order = [i for i in np.argsort(-found.peaks[channel])[:count] if found.peaks[channel, i] != 0]
    if not order:
        return None
    tiles = [_crop(pictures[i][0], found.places[channel, i], field) for i in order]
    tiles = [cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA) for tile in tiles]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % _PATCHES_PER_ROW)
    return np.concatenate(
        [np.concatenate(tiles[i : i + _PATCHES_PER_ROW], 1) for i in range(0, len(tiles), _PATCHES_PER_ROW)]
    )


def _crop(picture: np.ndarray, place: np.ndarray, field: float) -> np.ndarray:
    """The square of `picture` uint8 [3,H,W] around `place` (y, x in 0..1), shifted to lie within the picture."""
    sides = picture.shape[1:]
    width = round(min(max(field, _MIN_PATCH), *sides)) if math.isfinite(field) else min(sides)
    top, left = (
        round(min(max(float(at) * length - width / 2, 0), length - width))
        for at, length in zip(place, sides, strict=True)
    )
    return np.ascontiguousarray(picture[:, top : top + width, left : left + width].transpose(1, 2, 0))


def read_crops(files: Sequence[Path], size: tuple[int, int], on_skip: Callable[[str], None]) -> Iterator[np.ndarray]:
    """Read the centre crops of picture files, one after another.

    Args:
        files: The pictures.
        size: (height, width) in pixels.
        on_skip: Called with a message for each file that cannot be read; the file is skipped.

    Yields:
        Uint8 RGB [1,3,*size].
    """
    for path in files:
        try:
            yield np.rint(read_center_crop(path, size)).astype(np.uint8)
        except PictureError as error:
            on_skip(str(error))
