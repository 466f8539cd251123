"""The atlas's pages, rendered from templates: plain files that a browser opens from the disk."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..images import write_whole
from ..networks.model import Layer

_TEMPLATES = Path(__file__).parent / "templates"
_BARS = 40  # in the chart of a channel's activations


@dataclass(frozen=True)
class Channel:
    """One channel of a page.

    Attributes:
        number: The channel's number.
        home: The folder of its files, relative to the page.
        there: The names of the files in that folder.
        label: The name of its class, empty if it is not one.
        statistics: Its entry of `statistics.json`, if there is one.
    """

    number: int
    home: str
    there: set[str]
    label: str
    statistics: dict[str, Any] | None

    def file(self, kind: str) -> str:
        """The address of the picture `kind`; empty if it has not been made yet."""
        name = f"{kind}-{self.number}.jpg"
        return f"{self.home}/{name}" if name in self.there else ""

    @property
    def peak(self) -> float:
        """The highest activation in any picture."""
        return float(self.statistics["peaks"][0]) if self.statistics else 0.0

    @property
    def sketch(self) -> list[float]:
        """The highest activation in each picture, strongest first, as the heights in 0..1 of at most 40 bars."""
        peaks = self.statistics["peaks"] if self.statistics else []
        chosen = [peaks[i * len(peaks) // min(len(peaks), _BARS)] for i in range(min(len(peaks), _BARS))]
        top = max([abs(v) for v in chosen], default=0.0) or 1.0
        return [max(0.0, v) / top for v in chosen]


@dataclass(frozen=True)
class Page:
    """The page of one layer.

    Attributes:
        layer: The layer.
        home: The folder of its files, and the name of its page without `.html`.
        channels: The channels shown.
    """

    layer: Layer
    home: str
    channels: list[Channel]

    @property
    def numbers(self) -> list[int]:
        """The channels' numbers."""
        return [channel.number for channel in self.channels]

    @property
    def labels(self) -> list[tuple[int, str]]:
        """The channels that are classes, with their names."""
        return [(channel.number, channel.label) for channel in self.channels if channel.label]

    @property
    def made(self) -> int:
        """How many channels have a picture so far."""
        return sum(bool(channel.file("channel")) for channel in self.channels)

    @property
    def sees(self) -> str:
        """The receptive field in words."""
        field = self.layer.receptive_field
        return "the whole picture" if math.isinf(field) else f"{field:g} px"


def write(folder: Path, title: str, plan: dict[str, Any], pages: Sequence[Page]) -> None:
    """Write all pages.

    Args:
        folder: Where to.
        title: The network's title.
        plan: The entries of `atlas.json`.
        pages: One for each layer.

    Raises:
        OutputError: A file cannot be written.
    """
    import jinja2

    site = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    common = {"title": title, "plan": plan, "pages": pages}
    for name in ("atlas.css", "atlas.js"):
        write_text(folder / name, (_TEMPLATES / name).read_text(encoding="utf-8"))
    write_text(folder / "index.html", site.get_template("index.html").render(common))
    for number, page in enumerate(pages):
        around = {"before": pages[number - 1] if number else None, "after": [*pages, None][number + 1]}
        write_text(
            folder / f"{page.home}.html", site.get_template("layer.html").render({**common, **around, "page": page})
        )


def slug(name: str) -> str:
    """A layer's name as a file name; different names stay different even if the file system ignores case."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "layer"
    changed = plain != name or name != name.lower() or len(plain) > 80 or plain in ("index", "atlas")
    return f"{plain[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:10]}" if changed else plain


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Raises OutputError."""

    def write(to: Path) -> None:
        to.write_text(text, encoding="utf-8")

    write_whole(path, write)
