"""Several objectives in one batch: the channels that each picture follows are an input of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..networks.model import Model
from ..objectives import Objective, Readout, Term


def batch_objectives(model: Model, objectives: Sequence[Objective]) -> tuple[Objective, dict[str, np.ndarray]]:
    """One objective for a batch whose picture n follows `objectives[n]`.

    Args:
        model: The network.
        objectives: Objectives with the same `graph_key`.

    Returns:
        The objective, and what its graph's inputs besides the picture are to be fed: float32 [N,C] by name.
    """
    terms, feeds = [], {}
    for position, (weight, term) in enumerate(objectives[0].terms):
        if term.readout is None:
            terms.append((weight, term))
            continue
        channels, name = model.layer(term.layer).channels, f"weights_{position}"
        picked = [objective.terms[position] for objective in objectives]
        feeds[name] = np.stack([w * t.readout.weights(channels) for w, t in picked if t.readout]).astype(np.float32)
        terms.append((1.0, _with_weight_input(term, term.readout, name, channels)))
    return Objective(tuple(terms)), feeds


def graph_key(objective: Objective) -> tuple[object, ...]:
    """What objectives must have in common to share a graph; it can be compared and hashed."""
    return tuple(
        (term.layer, term.readout.kind) if term.readout else (term.layer, term.text, term.digest, weight)
        for weight, term in objective.terms
    )


def _with_weight_input(term: Term, readout: Readout, name: str, channels: int) -> Term:
    """`term`, reading its weights from the graph's input `name`."""

    def build(op, a, shape):  # type: ignore[no-untyped-def]
        weights = next(value for value in op.graph.inputs if value.name == name)
        return readout.build(op, a, shape, weights)

    text = f"{readout.kind}({term.layer}, {name})"
    return dataclasses.replace(term, text=text, build=build, inputs=((name, channels),))
