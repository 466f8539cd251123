"""Labelled grids of pictures, activation maps and bar charts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import OptionError, PictureError

COLORMAPS = {
    "grey": None,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "magma": cv2.COLORMAP_MAGMA,
    "inferno": cv2.COLORMAP_INFERNO,
    "turbo": cv2.COLORMAP_TURBO,
}
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_MAX_SIDE = 65_000  # pixels a side that JPEG and readers of PNG still accept
_BACKGROUND, _FOREGROUND, _MUTED, _BAR = (18, 18, 20), (235, 235, 235), (120, 120, 125), (92, 150, 230)


def show(
    pictures: np.ndarray | Sequence[np.ndarray], labels: Sequence[str] = (), *, columns: int | None = None, gap: int = 4
) -> Image.Image:
    """Arrange pictures, or an activation's channels, in one labelled grid.

    Args:
        pictures: RGB, uint8 [n,H,W,3], or activations, float [n,h,w], which are drawn by `activation_maps`.
        labels: A text for each, shown below it; a long one in smaller letters.
        columns: How many are placed side by side. Default: as many as make the grid about square.
        gap: Pixels between them.

    Returns:
        The grid; a notebook displays it.

    Raises:
        OptionError: The arrays are neither pictures nor activations, or there are fewer or more labels than pictures.
        PictureError: The grid would exceed 65,000 pixels a side.
    """
    tiles = [_to_tile(np.asarray(picture)) for picture in pictures]
    if not tiles:
        raise OptionError("there are no pictures to show")
    if labels and len(labels) != len(tiles):
        raise OptionError(f"{len(labels)} labels for {len(tiles)} pictures; give one each")
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    columns, size = grid_layout(len(tiles), (height, width), columns, gap=gap, labelled=bool(labels))
    text = _label_height(width)
    line = text + 6 if labels else 0
    grid = Image.new("RGB", size[::-1], _BACKGROUND)
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(text)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, columns)
        x, y = gap + column * (width + gap), gap + row * (height + line + gap)
        grid.paste(Image.fromarray(tile), (x, y))
        if labels:
            fitting = _shrink(font, labels[position], width - 4)
            pen.text((x + 2, y + height + 1), _truncate(labels[position], fitting, width - 4), _FOREGROUND, fitting)
    return grid


def grid_layout(
    count: int, tile: tuple[int, int], columns: int | None = None, *, gap: int = 4, labelled: bool = True
) -> tuple[int, tuple[int, int]]:
    """The layout that `show` gives a grid.

    Args:
        count: How many tiles there are.
        tile: (height, width) of each in pixels.
        columns: How many are placed side by side. Default: as many as make the grid about square.
        gap: Pixels between them.
        labelled: Whether they have labels.

    Returns:
        The number of columns, and the (height, width) of the grid in pixels.

    Raises:
        OptionError: `columns` is less than 1.
        PictureError: The grid would exceed 65,000 pixels a side.
    """
    if columns is not None and columns < 1:
        raise OptionError(f"columns is {columns}; it must be at least 1")
    height, width = tile
    columns = min(count, columns or math.ceil(math.sqrt(count * height / width)))
    line = _label_height(width) + 6 if labelled else 0
    return columns, _check_size(gap + math.ceil(count / columns) * (height + line + gap), gap + columns * (width + gap))


def _label_height(width: int) -> int:
    """The height in pixels of the labels under tiles of `width` pixels."""
    return max(10, min(18, width // 9))


def _check_size(height: int, width: int) -> tuple[int, int]:
    if max(height, width) > _MAX_SIDE:
        raise PictureError(
            f"the grid would be {width}x{height}, beyond {_MAX_SIDE:,} a side; show fewer or smaller tiles"
        )
    return height, width


def _to_tile(array: np.ndarray) -> np.ndarray:
    """A uint8 picture unchanged, an activation [h,w] as a map."""
    if array.dtype.kind == "f" and array.ndim == 2 and array.size:
        return activation_maps(array[None])[0]
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size:
        return array
    raise OptionError(
        "show() takes pictures uint8 [n,H,W,3] RGB in 0..255, or activations float [n,h,w]; one of these is "
        f"{array.dtype} {list(array.shape)}"
    )


def map_size(shape: tuple[int, ...], tile: int) -> tuple[int, int]:
    """`shape` (height, width) scaled so that the longer side has `tile` pixels."""
    scale = tile / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def activation_maps(
    activation: np.ndarray, *, colors: str = "viridis", tile: int = 128, over: np.ndarray | None = None
) -> list[np.ndarray]:
    """Draw the channels of an activation, each from its own lowest to its highest value.

    Args:
        activation: Float [n,h,w]; values that are not finite are drawn as the lowest.
        colors: The colour map, one of `COLORMAPS`.
        tile: The longer side of each picture in pixels.
        over: A picture, uint8 RGB [H,W,3], to lay the maps over; it is visible where the channel is active, and dark
            elsewhere.

    Returns:
        A picture for each channel, uint8 RGB [H,W,3].

    Raises:
        OptionError: There is no such colour map.
    """
    if colors not in COLORMAPS:
        raise OptionError(f"unknown colours {colors!r}; there are {', '.join(COLORMAPS)}")
    size = map_size(over.shape[:2] if over is not None else activation.shape[1:], tile)[::-1]
    below = None if over is None else cv2.resize(over, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    pictures = []
    for channel in activation:
        finite = channel[np.isfinite(channel)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        unit = (channel - low) / (high - low) if high > low else np.zeros_like(channel)
        # Over a picture the map is smooth; alone it shows each value as a square.
        method = cv2.INTER_NEAREST if below is None else cv2.INTER_CUBIC
        unit = np.nan_to_num(unit.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        unit = np.clip(cv2.resize(unit, size, interpolation=method), 0, 1)
        colored = _apply_colormap(unit, COLORMAPS[colors])
        if below is not None:
            share = unit[..., None]
            colored = below * (0.25 + 0.75 * share) * (1 - 0.45 * share) + colored * 0.45 * share
        pictures.append(np.rint(np.clip(colored, 0, 255)).astype(np.uint8))
    return pictures


def bar_chart(values: np.ndarray, labels: Sequence[str], *, width: int = 640) -> Image.Image:
    """Draw values as horizontal bars with labels, for layers that are not spatial.

    Args:
        values: Float [n]; negative ones extend to the left of zero.
        labels: A text for each.
        width: The picture's width in pixels.

    Returns:
        The picture.

    Raises:
        PictureError: The picture would exceed 65,000 pixels a side.
    """
    line, text = 22, 13
    named = [f"{label}" for label in labels]
    picture = Image.new("RGB", _check_size(line * len(named) + 8, width)[::-1], _BACKGROUND)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(text)
    left, right = width * 2 // 5, width - 80
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    span = (high - low) or 1.0
    zero = left + (right - left) * -low / span
    for position, (value, label) in enumerate(zip(values, named, strict=True)):
        y, end = 4 + position * line, left + (right - left) * (float(value) - low) / span
        pen.text((8, y + 2), _truncate(label, font, left - 16), _FOREGROUND, font)
        pen.rectangle((min(zero, end), y + 3, max(zero, end), y + line - 4), _BAR if value >= 0 else _MUTED)
        pen.text((right + 8, y + 2), f"{value:.4g}", _FOREGROUND, font)
    return picture


def _apply_colormap(unit: np.ndarray, colormap: int | None) -> np.ndarray:
    """Values [H,W] in 0..1 as float32 [H,W,3] in 0..255."""
    grey = np.rint(unit * 255).astype(np.uint8)
    if colormap is None:
        return np.repeat(grey[..., None], 3, 2).astype(np.float32)
    return np.asarray(cv2.applyColorMap(grey, colormap)[..., ::-1], np.float32)


def _shrink(font: _Font, text: str, width: int) -> _Font:
    """The font, down to half its size if `text` is wider than `width` pixels."""
    smallest = font.size / 2 if isinstance(font, ImageFont.FreeTypeFont) else 0.0
    while isinstance(font, ImageFont.FreeTypeFont) and font.getlength(text) > width and font.size > smallest:
        font = font.font_variant(size=font.size - 0.5)
    return font


def _truncate(text: str, font: _Font, width: int) -> str:
    """`text`, shortened to fit `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
