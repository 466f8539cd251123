"""What a job depends on besides its settings: the networks, the guide pictures, and the engines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ...dream.dreamer import Dreamer
from .checkpoint import digest_of


def identify_inputs(dreamers: Iterable[Dreamer], guides: Iterable[str] = ()) -> dict[str, str]:
    """Describe what the dreams of a job depend on; the job is resumed only if this is the same.

    Args:
        dreamers: the Dreamers of the job.
        guides: paths of the guide pictures.

    Returns:
        "network" and "guide", digests of the networks with their cards and of the guide pictures, and "engine", the
        engines' names.
    """
    dreamers = list(dreamers)
    models = {id(dreamer.model): dreamer.model for dreamer in dreamers}.values()
    networks = hashlib.blake2b(digest_size=16)
    for model in models:
        networks.update(model.proto.SerializeToString(deterministic=True))
        networks.update(repr(model.card).encode())
    return {
        "network": networks.hexdigest(),
        "guide": " ".join(digest_of(Path(guide)) for guide in guides),
        "engine": " ".join(sorted({dreamer.engine for dreamer in dreamers})),
    }
