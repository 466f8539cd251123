"""Labelled grids of pictures, maps of activation, and bars."""

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
_LARGEST = 65_000  # pixels a side, what PNG readers and JPEG still take
_BACKGROUND, _INK, _FAINT, _BAR = (18, 18, 20), (235, 235, 235), (120, 120, 125), (92, 150, 230)


def show(
    pictures: np.ndarray | Sequence[np.ndarray], labels: Sequence[str] = (), *, columns: int | None = None, gap: int = 4
) -> Image.Image:
    """Pictures uint8 [n,H,W,3] RGB as one labelled grid; a notebook shows what is returned.

    `columns` is chosen so that the grid is about square where it is None. Raises OptionError for labels that do not fit
    the pictures, and PictureError for a grid beyond 65,000 pixels a side.
    """
    tiles = [np.asarray(picture) for picture in pictures]
    if not tiles:
        raise OptionError("there are no pictures to show")
    if labels and len(labels) != len(tiles):
        raise OptionError(f"{len(labels)} labels for {len(tiles)} pictures; give one each")
    if columns is not None and columns < 1:
        raise OptionError(f"columns is {columns}; it must be at least 1")
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    columns = min(len(tiles), columns or math.ceil(math.sqrt(len(tiles) * height / width)))
    rows = math.ceil(len(tiles) / columns)
    text = max(10, min(18, width // 9))
    line = text + 6 if labels else 0
    size = (gap + columns * (width + gap), gap + rows * (height + line + gap))
    if max(size) > _LARGEST:
        raise PictureError(f"a grid of {len(tiles)} pictures would be {size[0]}x{size[1]}; show fewer or smaller ones")
    grid = Image.new("RGB", size, _BACKGROUND)
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(text)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, columns)
        x, y = gap + column * (width + gap), gap + row * (height + line + gap)
        grid.paste(Image.fromarray(tile), (x, y))
        if labels:
            pen.text((x + 2, y + height + 1), _fitting(labels[position], font, width - 4), _INK, font)
    return grid


def maps(
    answer: np.ndarray, *, colors: str = "viridis", tile: int = 128, over: np.ndarray | None = None
) -> list[np.ndarray]:
    """Channels [n,h,w] as pictures uint8 [H,W,3], each from its own lowest to its highest value.

    The longer side becomes `tile` pixels. With `over`, a picture uint8 [H,W,3], the map is laid over it: the picture
    shows where the channel answers, and is dark elsewhere. Raises OptionError for an unknown colour map.
    """
    if colors not in COLORMAPS:
        raise OptionError(f"unknown colours {colors!r}; there are {', '.join(COLORMAPS)}")
    shape = over.shape[:2] if over is not None else answer.shape[1:]
    scale = tile / max(shape)
    size = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
    below = None if over is None else cv2.resize(over, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    pictures = []
    for channel in answer:
        low, high = float(channel.min()), float(channel.max())
        unit = (channel - low) / (high - low) if high > low else np.zeros_like(channel)
        # Smooth over a picture; as the numbers are, in squares, alone.
        method = cv2.INTER_NEAREST if below is None else cv2.INTER_CUBIC
        unit = np.clip(cv2.resize(unit.astype(np.float32), size, interpolation=method), 0, 1)
        colored = _colored(unit, COLORMAPS[colors])
        if below is not None:
            share = unit[..., None]
            colored = below * (0.25 + 0.75 * share) * (1 - 0.45 * share) + colored * 0.45 * share
        pictures.append(np.rint(np.clip(colored, 0, 255)).astype(np.uint8))
    return pictures


def bars(values: np.ndarray, labels: Sequence[str], *, width: int = 640) -> Image.Image:
    """Values [n] as horizontal bars with their labels, for layers without places; negative ones go left of the zero."""
    line, text = 22, 13
    named = [f"{label}" for label in labels]
    picture = Image.new("RGB", (width, line * len(named) + 8), _BACKGROUND)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(text)
    left, right = width * 2 // 5, width - 80
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    span = (high - low) or 1.0
    zero = left + (right - left) * -low / span
    for position, (value, label) in enumerate(zip(values, named, strict=True)):
        y, end = 4 + position * line, left + (right - left) * (float(value) - low) / span
        pen.text((8, y + 2), _fitting(label, font, left - 16), _INK, font)
        pen.rectangle((min(zero, end), y + 3, max(zero, end), y + line - 4), _BAR if value >= 0 else _FAINT)
        pen.text((right + 8, y + 2), f"{value:.4g}", _INK, font)
    return picture


def _colored(unit: np.ndarray, colormap: int | None) -> np.ndarray:
    """Values [H,W] in 0..1 as float32 [H,W,3] in 0..255."""
    grey = np.rint(unit * 255).astype(np.uint8)
    if colormap is None:
        return np.repeat(grey[..., None], 3, 2).astype(np.float32)
    return np.asarray(cv2.applyColorMap(grey, colormap)[..., ::-1], np.float32)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, cut where it is longer than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
