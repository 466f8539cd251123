"""What a dream depends on besides its settings: the networks, the guide pictures, and what runs them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ...dream.dreamer import Dreamer
from .manifest import digest_of


def identity(dreamers: Iterable[Dreamer], guides: Iterable[str] = ()) -> dict[str, str]:
    """Digests of the networks with their cards and of the guide pictures, and the engines' names.

    A job is gone on with only where they are the same.
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
