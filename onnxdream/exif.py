"""EXIF as the directories of tags that it is, read from a block of bytes or a TIFF, and written anywhere.

Tags keep their types and bytes. Pillow, which writes EXIF too, guesses types and makes question marks of all but ASCII.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from typing import BinaryIO, Literal, NamedTuple

DETAILS, PLACE, _INTEROPERABILITY = 34665, 34853, 40965
_DIRECTORIES = (DETAILS, PLACE, _INTEROPERABILITY)  # tags that lead to directories of their own
_ASCII, _SHORT, _LONG, _RATIONAL = 2, 3, 4, 5
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # of a value, by type
_LONGEST = 1 << 26  # bytes of one tag; what claims more is damaged
_PREFIX = b"Exif\0\0"


class Tag(NamedTuple):
    """A tag's type and its values, in the order of bytes of the whole."""

    type: int
    data: bytes


Directory = dict[int, "Tag | Directory"]


@dataclass
class Exif:
    """EXIF.

    Attributes:
        order: "<" for little-endian bytes, ">" for big-endian.
        tags: The first directory, with others in it.
    """

    order: Literal["<", ">"] = "<"
    tags: Directory = field(default_factory=dict)

    @classmethod
    def read(cls, source: bytes | BinaryIO) -> Exif:
        """Read EXIF; what is damaged of it is left out.

        Args:
            source: The block of a JPEG, or a TIFF opened for reading.
        """
        file = BytesIO(source.removeprefix(_PREFIX)) if isinstance(source, bytes) else source
        head = file.read(8)
        orders: dict[bytes, Literal["<", ">"]] = {b"II*\0": "<", b"MM\0*": ">"}
        order = orders.get(head[:4])
        if order is None or len(head) < 8:
            return cls()
        return cls(order, _read(file, order, struct.unpack(f"{order}I", head[4:])[0]))

    def to_bytes(self) -> bytes:
        """The block of a JPEG; empty if there is no tag."""
        if not self.tags:
            return b""
        head = struct.pack(f"{self.order}2sHI", b"II" if self.order == "<" else b"MM", 42, 8)
        return _PREFIX + head + self.directory(8)

    def directory(self, place: int) -> bytes:
        """The directory with all that belongs to it.

        Args:
            place: Where it will lie in its file.
        """
        return _written(self.tags, self.order, place)

    def text(self, tag: int) -> str:
        """A tag as text; empty if there is none.

        Args:
            tag: Its number, in the first directory.
        """
        found = self.tags.get(tag)
        return found.data.rstrip(b"\0").decode("utf-8", "replace") if isinstance(found, Tag) else ""

    def set_text(self, tag: int, text: str) -> None:
        """Set a tag of the first directory to a text.

        Args:
            tag: Its number.
            text: The text.
        """
        self.tags[tag] = Tag(_ASCII, text.encode() + b"\0")

    def set_number(self, tag: int, number: float, *, within: int | None = None) -> None:
        """Set a tag to a whole number, or to a fraction.

        Args:
            tag: Its number.
            number: Its value, at least 0.
            within: The directory it is in, if not the first; where there is none, nothing is set.
        """
        if isinstance(number, int):
            data = Tag(_LONG, struct.pack(f"{self.order}I", number))
        else:
            share = Fraction(number).limit_denominator(1_000_000)
            data = Tag(_RATIONAL, struct.pack(f"{self.order}II", share.numerator, share.denominator))
        directory = self.tags if within is None else self.tags.get(within)
        if isinstance(directory, dict):
            directory[tag] = data

    def number(self, tag: int) -> float | None:
        """A tag of the first directory as a number; None if there is none.

        Args:
            tag: Its number.
        """
        found = self.tags.get(tag)
        form = {_SHORT: "H", _LONG: "I", _RATIONAL: "II"}.get(found.type) if isinstance(found, Tag) else None
        if form is None or not isinstance(found, Tag) or len(found.data) < struct.calcsize(f"<{form}"):
            return None
        values = struct.unpack_from(f"{self.order}{form}", found.data)
        if len(values) == 1:
            return float(values[0])
        return values[0] / values[1] if values[1] else None


def _read(file: BinaryIO, order: str, place: int, depth: int = 0) -> Directory:
    file.seek(place)
    head = file.read(2)
    if len(head) < 2:
        return {}
    records = file.read(12 * struct.unpack(f"{order}H", head)[0])
    tags: Directory = {}
    for at in range(0, len(records) - 11, 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHI4s", records, at)
        length = _SIZES.get(kind, 0) * count
        if not 0 < length <= _LONGEST:
            continue
        offset = struct.unpack(f"{order}I", value)[0]
        if tag in _DIRECTORIES:
            if depth < 2 and (inner := _read(file, order, offset, depth + 1)):
                tags[tag] = inner
            continue
        data = value[:length]
        if length > 4:
            file.seek(offset)
            data = file.read(length)
        if len(data) == length:
            tags[tag] = Tag(kind, data)
    return tags


def _written(tags: Directory, order: str, place: int) -> bytes:
    records, rest = [], bytearray()
    start = place + 2 + 12 * len(tags) + 4
    for number, tag in sorted(tags.items(), key=lambda item: item[0]):
        at = start + len(rest)
        if isinstance(tag, dict):
            records.append(struct.pack(f"{order}HHII", number, _LONG, 1, at))
            data = _written(tag, order, at)
        else:
            count, data = len(tag.data) // _SIZES[tag.type], tag.data
            if len(data) <= 4:
                records.append(struct.pack(f"{order}HHI4s", number, tag.type, count, data.ljust(4, b"\0")))
                continue
            records.append(struct.pack(f"{order}HHII", number, tag.type, count, at))
        rest += data + b"\0" * (len(data) % 2)
    return struct.pack(f"{order}H", len(tags)) + b"".join(records) + bytes(4) + bytes(rest)
