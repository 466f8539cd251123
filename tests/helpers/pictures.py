"""Picture files written byte by byte, and files that are no pictures."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG file by the book: signature, header, `more` chunks, unfiltered rows."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    chunks = [header, *more, png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png16(pixels: np.ndarray, colour: int, *more: bytes) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return png(pixels.shape[1], pixels.shape[0], 16, colour, rows, *more)


def bad_pictures(folder: Path, photo: np.ndarray) -> dict[str, str]:
    """Files that are no pictures, with what must be said of them."""
    Image.fromarray(photo).save(folder / "whole.jpg")
    Image.fromarray(photo).save(folder / "whole.png")
    Image.fromarray(photo).save(folder / "whole.webp")
    tifffile.imwrite(folder / "whole.tif", photo.astype(np.uint16) * 257, photometric="rgb", compression="zlib")
    (folder / "whole16.png").write_bytes(png16(photo.astype(np.uint16) * 257, 2))
    for whole in list(folder.glob("whole*")):
        data = whole.read_bytes()
        (folder / whole.name.replace("whole", "half")).write_bytes(data[: len(data) // 2])
        whole.unlink()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no picture\nat all\n")
    (folder / "folder.png").mkdir()
    (folder / "bomb.png").write_bytes(png(60000, 60000, 8, 2, b"\0" * 1000))
    tifffile.imwrite(folder / "float.tif", photo[:, :, 0].astype(np.float32), photometric="minisblack")
    return {
        **{half.name: "damaged or cut off|not a picture" for half in folder.glob("half*")},
        "empty.png": "the file is empty",
        "text.jpg": "not a picture, or of a kind that cannot be read",
        "folder.png": "is a folder, not a picture",
        "bomb.png": "60000x60000 is more than 400,000,000 pixels",
        "missing.png": "no such file",
        "float.tif": "floating-point numbers that do not tell black and white",
    }
