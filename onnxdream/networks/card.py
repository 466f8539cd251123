"""Cards: what is known about a network besides its graph, in a JSON file next to it (`name.json` for `name.onnx`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from ..errors import ModelError, describe_validation

if TYPE_CHECKING:
    import numpy as np


_BY_NUMBER = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Preprocessing:
    """How the network expects its picture: `(picture[channels] - mean) / std`, picture values in 0..255.

    Attributes:
        channels: A letter for each, in their order: R, G, B, L (luminance) or A (alpha, 255 everywhere), such as "RGB",
            "BGR", "L", "RGBA", or "RGBRGB" where a network takes two pictures. Cards may also give the number 1 (L), 3
            (RGB) or 4 (RGBA).
        mean: Subtracted from each channel, in the order of `channels`.
        std: What each channel is then divided by, in the order of `channels`; never 0.
    """

    channels: Annotated[str, Field(pattern="^[RGBLA]+$")]
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]

    @field_validator("channels", mode="before")
    @classmethod
    def _letters(cls, channels: object) -> object:
        if not isinstance(channels, int):
            return channels
        if channels not in _BY_NUMBER:
            raise ValueError(
                f"a picture gives 1, 3 or 4 channels, not {channels}; name them by letters, such as RGBRGB for two"
            )
        return _BY_NUMBER[channels]

    @model_validator(mode="after")
    def _check(self) -> Preprocessing:
        if not len(self.mean) == len(self.std) == len(self.channels) or 0 in self.std:
            raise ValueError(f"channels {self.channels} need one mean and one non-zero std each")
        return self

    def as_convolution(self) -> tuple[np.ndarray, np.ndarray]:
        """The same map as the weight [C,3,1,1] and bias [C] of a 1x1 convolution on RGB 0..255."""
        import numpy as np

        rows = {"R": (1, 0, 0), "G": (0, 1, 0), "B": (0, 0, 1), "L": (0.299, 0.587, 0.114), "A": (0, 0, 0)}
        mix = np.array([rows[c] for c in self.channels], np.float64)
        always = np.array([255.0 * (c == "A") for c in self.channels])
        mean, std = np.array(self.mean, np.float64), np.array(self.std, np.float64)
        weight = (mix / std[:, None])[:, :, None, None]
        return weight.astype(np.float32), ((always - mean) / std).astype(np.float32)


# The convention of torchvision and most model zoos, used for files that come without a card.
IMAGENET = Preprocessing("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True)
class Card:
    """What is known about a network besides its graph.

    Attributes:
        name: What the network is called.
        preprocessing: How it expects its picture.
        title: What it is, in a few words.
        source: Where it comes from.
        licence: Under which terms it is distributed.
        sha256: Of its file, 64 hexadecimal digits.
        urls: Mirrors to download it from, in the order they are tried; none where the file is next to the card.
        bytes: The size of its file; needed, as `sha256` is, where there are `urls`.
        size: (height, width) in pixels of the pictures it was trained on.
        multiple: What height and width of a picture must be multiples of, where the graph does not tell.
        recommended: Layers that dream well, from the shallowest to the deepest.
        default: The layer to dream with where none is named; if empty, the middle one of those recommended.
        labels: The names of its classes.
        aliases: The graph's names of layers, by further names they may be called.
        inputs: Constants for inputs other than the picture's, by name: a number, a list of numbers, or the name of a
            NumPy file next to the card.
        assumed: Whether the file came without a card.
    """

    name: str
    preprocessing: Preprocessing
    title: str = ""
    source: str = ""
    licence: str = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    urls: tuple[Annotated[str, Field(pattern="^https?://.")], ...] = ()
    bytes: Annotated[PositiveInt, Field(strict=True)] | None = None
    size: tuple[PositiveInt, PositiveInt] | None = None
    multiple: PositiveInt = 1
    recommended: tuple[str, ...] = ()
    default: str = ""
    labels: tuple[str, ...] = ()
    aliases: Mapping[str, str] = Field(default_factory=dict)
    inputs: Mapping[str, Any] = Field(default_factory=dict)
    assumed: bool = False

    @model_validator(mode="after")
    def _check(self) -> Card:
        if self.urls and not (self.sha256 and self.bytes):
            raise ValueError("a network to be downloaded needs its sha256 and bytes")
        return self

    @classmethod
    def read(cls, path: Path) -> Card:
        """Read a card.

        Args:
            path: The JSON file. Its entries are the attributes above, except `assumed`; only `preprocessing` is
                required, and unknown ones are ignored. `labels` may name a text file next to it, one class a line.

        Raises:
            ModelError: The card cannot be read, or an entry of it is missing or wrong; the message names it.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(fields, dict):
                raise ValueError("it is not a JSON object")
            labels = fields.get("labels", ())
            if isinstance(labels, str):
                if Path(labels).name != labels:
                    raise ModelError(f"{path}: labels {labels!r} must be a file next to the card")
                labels = (path.parent / labels).read_text(encoding="utf-8").splitlines()
            return TypeAdapter(cls).validate_python({"name": path.stem, **fields, "labels": labels, "assumed": False})
        except ValidationError as error:
            raise ModelError(
                f"{path}: not a usable card: {describe_validation(error)}; see the README for what it needs"
            ) from error
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: not a usable card: {error}; correct it or remove it") from error
