"""Reading an ONNX file, with the weights that it may keep in other files next to it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError, first_line
from ..graph.shapes import all_graphs, tensors_of
from .file_kinds import recognize

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Args:
        path: The file.

    Returns:
        The network as it is in the file, with all its weights.

    Raises:
        ModelError: The file is missing, damaged or not ONNX, or has weights outside its own folder.
    """
    import onnx

    if not path.exists():
        raise ModelError(f"{path}: no such file")
    if not path.is_file():
        raise ModelError(f"{path}: is not a file{_but(path)}; name an ONNX file")
    try:
        proto = onnx.load(path, load_external_data=False)
    except PermissionError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        raise ModelError(f"{path}: not an ONNX file{_but(path) or ', or only part of one'}") from error
    if not proto.graph.node or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX file{_but(path) or ' (it contains no operators)'}")
    if {i.name for i in proto.graph.input} <= {t.name for t in proto.graph.initializer}:
        raise ModelError(f"{path}: takes no input, so no picture")
    _find_weights(path, proto)
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except Exception as error:
        raise ModelError(f"{path}: its weights are in another file that cannot be read: {first_line(error)}") from error
    return proto


def _but(path: Path) -> str:
    """' but …' with what the file is instead, where that can be told."""
    kind = recognize(path)
    return f" but {kind}" if kind else ""


def _find_weights(path: Path, proto: onnx.ModelProto) -> None:
    """Check the files of weights that the network names, and name the right one where one has been renamed.

    Raises ModelError if one is missing, too short, or outside the folder of the network.
    """
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    folder = path.parent.resolve()
    outside = [t for graph in all_graphs(proto.graph) for t in tensors_of(graph) if uses_external_data(t)]
    ends: dict[str, int] = {}
    for tensor in outside:
        try:
            info = ExternalDataInfo(tensor)
            inside = (folder / info.location).resolve().is_relative_to(folder)
        except ValueError as error:
            raise ModelError(f"{path}: not a valid ONNX file: {first_line(error)}") from error
        if not inside:
            raise ModelError(
                f"{path}: weight {tensor.name} is outside the model's folder ({info.location}); "
                "put the weights file next to the model"
            )
        ends[info.location] = max(ends.get(info.location, 0), (info.offset or 0) + (info.length or 0))
    found = {location: _weights_file(path, location, end) for location, end in ends.items()}
    for entry in [entry for tensor in outside for entry in tensor.external_data if entry.key == "location"]:
        entry.value = found[entry.value]


def _weights_file(path: Path, location: str, end: int) -> str:
    """The name of the file that holds the `end` bytes of weights which the network calls `location`."""
    named = path.parent / location
    if not named.exists():
        other = _renamed(path, end)
        if other is None:
            raise ModelError(
                f"{path}: its weights are in another file, {location} ({end:,} bytes), which is missing; put it "
                "next to the network, under that name"
            )
        log.warning(f"{path}: its weights file {location} is missing; {other.name} is taken, which has the right size")
        return other.name
    if named.is_file() and (size := named.stat().st_size) < end:
        kind = recognize(named) or f"too short, with {size:,} of at least {end:,} bytes; get it again"
        raise ModelError(f"{path}: its weights file {location} is {kind}")
    return location


def _renamed(path: Path, end: int) -> Path | None:
    """The file next to the network that holds its weights under another name: by its size, or by the network's name."""
    try:
        beside = [p for p in sorted(path.parent.iterdir()) if p.is_file() and p.suffix not in (".onnx", ".json")]
    except OSError:
        return None
    exact = [p for p in beside if p.stat().st_size == end]
    if len(exact) == 1:
        return exact[0]
    ours = [p for p in beside if p.stem in (path.stem, path.name) or p.name == f"{path.name}_data"]
    large = [p for p in ours if p.stat().st_size >= end]
    return large[0] if len(large) == 1 else None
