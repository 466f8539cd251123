"""What a file that should be a network is instead, from its first bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

_EXPORT = "export the network itself, with torch.onnx.export"
_KERAS = "export it with Keras (model.export with format='onnx') or tf2onnx"
_TENSORFLOW = "convert it with tf2onnx"

# {(where, the bytes there): what the file is, and what to do}
_SIGNATURES = {
    (0, b"version https://git-lfs.github.com/spec/"): (
        "a Git LFS pointer, which stands in for the file: run `git lfs pull` in its repository, or download the file"
    ),
    (0, b"<!doctype html"): "a web page, such as a login or an error; download the file itself",
    (0, b"<html"): "a web page, such as a login or an error; download the file itself",
    (0, b"<?xml"): "an XML file; an OpenVINO or SVG file cannot be used, only ONNX",
    (0, b"\x80\x02\x8a\nl\xfc\x9cf\xf9 j\xa8p\x19"): f"a PyTorch checkpoint; {_EXPORT}",
    (0, b"\x80\x02"): f"a Python pickle, such as a PyTorch checkpoint; {_EXPORT}",
    (0, b"\x80\x04"): f"a Python pickle, such as a PyTorch checkpoint; {_EXPORT}",
    (0, b"\x89hdf\r\n\x1a\n"): f"an HDF5 file, such as a Keras network; {_KERAS}",
    (0, b"\x93numpy"): "a NumPy array, not a network",
    (0, b"gguf"): "a GGUF language model, not a network for pictures",
    (0, b"\x1f\x8b"): "compressed with gzip; unpack it first",
    (0, b"7z\xbc\xaf\x27\x1c"): "a 7-Zip archive; unpack it first",
    (0, b"\x89png\r\n"): "a PNG picture",
    (0, b"\xff\xd8\xff"): "a JPEG picture",
    (0, b"gif8"): "a GIF picture",
    (0, b"%pdf"): "a PDF document",
    (4, b"tfl3"): f"a TensorFlow Lite network; {_TENSORFLOW} (--tflite)",
    (4, b"ortm"): "in ONNX Runtime's own format (.ort), which is made from an ONNX file; name that one",
    (4, b"et12"): f"an ExecuTorch program; {_EXPORT}",
    (4, b"ftyp"): "a video or picture",
    (9, b'{"'): f"a safetensors file, weights without a network; {_EXPORT}",
    (8, b'{"'): f"a safetensors file, weights without a network; {_EXPORT}",
}
_LONGEST = 64


def recognize(path: Path) -> str | None:
    """What a file that is not ONNX is.

    Args:
        path: The file, or a folder.

    Returns:
        A few words on what it is and what to do, such as "a web page; download the file itself"; None where its first
        bytes do not tell.
    """
    if path.is_dir():
        return _folder(path)
    with path.open("rb") as file:
        start = file.read(_LONGEST)
    if not start:
        return "empty; download it again"
    if start.startswith(b"PK\x03\x04"):
        return _archive(path)
    plain = start.lstrip(b"\xef\xbb\xbf \t\r\n") if start[:1] in b"\xef \t\r\n<" else start
    for (where, signature), kind in _SIGNATURES.items():
        if plain[where : where + len(signature)].lower() == signature:
            return kind
    if path.suffix == ".pb":
        return f"perhaps a TensorFlow graph; {_TENSORFLOW}"
    return None


def _folder(path: Path) -> str | None:
    if (path / "saved_model.pb").is_file():
        return f"a TensorFlow SavedModel; {_TENSORFLOW} (--saved-model)"
    if path.suffix == ".mlpackage":
        return "a Core ML package; use the network that it was made from"
    inside = sorted(p.name for p in path.glob("*.onnx"))
    return f"a folder; name {path / inside[0]}" if inside else None


def _archive(path: Path) -> str:
    """What the ZIP archive holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "a damaged ZIP archive; download it again"
    inside = [name for name in names if name.endswith(".onnx")]
    if inside:
        return f"a ZIP archive; unpack it and name {inside[0]}"
    if "config.json" in names and "metadata.json" in names:
        return f"a Keras network; {_KERAS}"
    if any(name.endswith(("data.pkl", "/version", "/byteorder")) for name in names):
        return f"a PyTorch checkpoint; {_EXPORT}"
    if any(name.endswith(".npy") for name in names):
        return "NumPy arrays, not a network"
    return "a ZIP archive; unpack it first"
