"""From the name of a network to its file: bundled, the user's own, or downloaded on demand.

A folder of networks contains cards (`name.json`), each with its network next to it (`name.onnx`) or with the `urls` to
download it from (see `download`). One such folder is bundled; ONNXDREAM_MODELS can name others, which take precedence.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ..errors import ModelError
from . import download

DEFAULT = "squeezenet1_1"


def folder() -> Path:
    """The folder of the bundled networks: inside the installed package, or next to it in a source checkout."""
    package = Path(__file__).parent.parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def folders() -> list[Path]:
    """All folders of networks, where later ones take precedence. Raises ModelError if one cannot be read."""
    own = [Path(name).expanduser() for name in os.environ.get("ONNXDREAM_MODELS", "").split(os.pathsep) if name]
    for path in own:
        if not (path.is_dir() and os.access(path, os.R_OK | os.X_OK)):
            raise ModelError(f"ONNXDREAM_MODELS: {path} is not a folder that can be read")
    return [folder(), *reversed(own)]


def networks() -> dict[str, Path]:
    """All networks by name, with the path of the card; where an ONNX file has no card, that path does not exist."""
    files = [path for place in folders() for path in sorted(place.iterdir()) if path.suffix in (".json", ".onnx")]
    return {path.stem: path.with_suffix(".json") for path in files if not path.name.startswith(".")}


def bundled() -> dict[str, Path]:
    """The files of the bundled networks, by name."""
    return {path.stem: path for path in sorted(folder().glob("*.onnx"))}


def network_file(card: Path) -> Path | None:
    """The network's file next to its card; None if it has to be downloaded."""
    path = card.with_suffix(".onnx")
    return path if path.is_file() else None


def find(name: str | Path) -> Path:
    """The ONNX file of a network; see `locate`."""
    return locate(name)[0]


def locate(name: str | Path) -> tuple[Path, Path]:
    """The ONNX file of a network, which is downloaded if necessary, and the path of its card.

    Args:
        name: The network's name, or the path of an ONNX file.

    Returns:
        The path of the file, and that of its card, which need not exist.

    Raises:
        ModelError: There is no such network or file, or downloads are forbidden.
        DownloadError: No mirror provides the file.
        OutputError: The cache folder cannot be written.
    """
    known = networks()
    if str(name) in known:
        card = known[str(name)]
        return network_file(card) or download.fetch(download.Source.read(card)), card
    try:
        path = Path(name).expanduser()
        if path.exists():
            return path, path.with_suffix(".json")
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{name}: cannot be read ({error})") from error
    if path.suffix or path.parent != Path():
        raise ModelError(f"{path}: no such file")
    near = difflib.get_close_matches(str(name), known, n=1)
    bring = f"one of torchvision's comes with `python tools/export_torch.py torchvision:{name}`"
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}; {bring}"
    raise ModelError(f"no network or file called {str(name)!r}; {hint}")
