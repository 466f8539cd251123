"""Many objectives in one batch: which channels each picture follows is an input of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..networks.model import Model
from ..objectives import Objective, Readout, Term


def steered(model: Model, objectives: Sequence[Objective]) -> tuple[Objective, dict[str, np.ndarray]]:
    """One objective for a batch whose picture n follows `objectives[n]`, all of one `family`.

    Also returned is what its graph's inputs besides the picture must be fed: float32 [N,C] by name.
    """
    terms, feeds = [], {}
    for position, (weight, term) in enumerate(objectives[0].terms):
        if term.reading is None:
            terms.append((weight, term))
            continue
        channels, name = model.layer(term.layer).channels, f"weights_{position}"
        picked = [objective.terms[position] for objective in objectives]
        feeds[name] = np.stack([w * t.reading.weights(channels) for w, t in picked if t.reading]).astype(np.float32)
        terms.append((1.0, _fed(term, term.reading, name, channels)))
    return Objective(tuple(terms)), feeds


def family(objective: Objective) -> tuple[object, ...]:
    """What objectives must have in common to share a graph."""
    return tuple(
        (term.layer, term.reading.kind) if term.reading else (term.layer, term.text, term.digest, weight)
        for weight, term in objective.terms
    )


def _fed(term: Term, reading: Readout, name: str, channels: int) -> Term:
    """`term` with its weights read from the graph's input `name`."""

    def build(op, a, shape):  # type: ignore[no-untyped-def]
        weights = next(value for value in op.graph.inputs if value.name == name)
        return reading.build(op, a, shape, weights)

    text = f"{reading.kind}({term.layer}, {name})"
    return dataclasses.replace(term, text=text, build=build, inputs=((name, channels),))
