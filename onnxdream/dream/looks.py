"""The looks a photograph can be given: every preset, or the layers of one network that dream well."""

from __future__ import annotations

import shlex

from ..networks import download, registry
from ..networks.model import load_model
from ..settings import PRESETS, Settings, layered

_MOST = 12  # layers of a network whose card recommends none


def looks(model: str | None = None) -> dict[str, Settings]:
    """The settings of each look.

    Args:
        model: A network's name or an ONNX file, for one look with each layer that its card recommends, or with up to
            12 layers from its first to its last spatial one where it recommends none. Default: all presets whose
            networks are here, or have been downloaded already.

    Returns:
        {the options of `onnxdream image` that give the look: its settings}

    Raises:
        ModelError: The network cannot be loaded.
        OptionError: There is no such network.
    """
    if model is None:
        presets = {f"-p {name}": layered({}, preset=name) for name in PRESETS}
        return {"": Settings(), **{text: look for text, look in presets.items() if all(map(_is_here, look.networks))}}
    loaded = load_model(model)
    names = list(loaded.card.recommended)
    if not names:
        spatial = [layer.name for layer in loaded.layers.values() if layer.spatial]
        count = min(_MOST, len(spatial))
        names = [spatial[round(at * (len(spatial) - 1) / max(count - 1, 1))] for at in range(count)]
    options = {f"-m {shlex.quote(model)} -l {shlex.quote(name)}": name for name in names}
    return {text: Settings(model=model, layers=(name,)) for text, name in options.items()}


def _is_here(network: str) -> bool:
    card = registry.networks()[network]
    return registry.network_file(card) is not None or download.Source.read(card).is_cached()
