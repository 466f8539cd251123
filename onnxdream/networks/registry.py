"""Names of networks to files: bundled ones, one's own, ones fetched on demand, or a path.

A folder of networks holds cards (`name.json`), each with its network beside it (`name.onnx`) or with the `urls` to
fetch it from (see `download`). The bundled folder is one; ONNXDREAM_MODELS can name others, which go before it.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ..errors import ModelError
from . import download

DEFAULT = "squeezenet1_1"


def folder() -> Path:
    """Where the bundled networks lie: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).parent.parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def folders() -> list[Path]:
    """Every folder of networks, later ones hiding earlier ones' names. Raises ModelError when one cannot be read."""
    own = [Path(name).expanduser() for name in os.environ.get("ONNXDREAM_MODELS", "").split(os.pathsep) if name]
    for path in own:
        if not (path.is_dir() and os.access(path, os.R_OK | os.X_OK)):
            raise ModelError(f"ONNXDREAM_MODELS: {path} is not a folder that can be read")
    return [folder(), *reversed(own)]


def networks() -> dict[str, Path]:
    """Every network's card by the network's name; a network of one's own may lack the card, not the file beside it."""
    files = [path for place in folders() for path in sorted(place.iterdir()) if path.suffix in (".json", ".onnx")]
    return {path.stem: path.with_suffix(".json") for path in files if not path.name.startswith(".")}


def bundled() -> dict[str, Path]:
    """The bundled networks' files by name."""
    return {path.stem: path for path in sorted(folder().glob("*.onnx"))}


def beside(card: Path) -> Path | None:
    """The network beside `card`; None when it is one to be fetched."""
    path = card.with_suffix(".onnx")
    return path if path.is_file() else None


def find(name: str | Path) -> Path:
    """The ONNX file for a network's name or a path; see `locate`."""
    return locate(name)[0]


def locate(name: str | Path) -> tuple[Path, Path]:
    """The ONNX file for a network's name or a path, fetched if need be, and where its card would be.

    Raises ModelError when there is neither, and what `download.fetch` raises.
    """
    known = networks()
    if str(name) in known:
        card = known[str(name)]
        return beside(card) or download.fetch(download.Source.read(card)), card
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
