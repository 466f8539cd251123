"""What a job depends on besides its settings: the networks, the guide pictures, and the engines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...dream.dreamer import Dreamer
from .checkpoint import digest_of


@dataclass(frozen=True)
class JobInputs:
    """What the dreams of a job depend on besides their settings.

    Attributes:
        network: A digest of the networks with their cards.
        guide: Digests of the guide pictures.
        engine: The names of the engines.
    """

    network: str
    guide: str
    engine: str


def identify_inputs(dreamers: Iterable[Dreamer], guides: Iterable[str] = ()) -> JobInputs:
    """Describe what the dreams of a job depend on; the job is resumed only if this is the same.

    Args:
        dreamers: The Dreamers of the job.
        guides: Paths of the guide pictures.

    Returns:
        Digests of the networks and guide pictures, and the engines' names.
    """
    dreamers = list(dreamers)
    models = {id(model): model for dreamer in dreamers for model in dreamer.models}.values()
    networks = hashlib.blake2b(digest_size=16)
    for model in models:
        networks.update(model.proto.SerializeToString(deterministic=True))
        networks.update(repr(model.card).encode())
    return JobInputs(
        network=networks.hexdigest(),
        guide=" ".join(digest_of(Path(guide)) for guide in guides),
        engine=" ".join(sorted({dreamer.engine for dreamer in dreamers})),
    )
