"""Einsum."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from ..registry import Call, rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph.ops import Ops


def labels(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The labels of each operand's axes and of the result's, one letter an axis.

    An ellipsis becomes as many free letters as it stands for. Raises NotImplementedError for a label that occurs twice
    in one operand: that takes a diagonal.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:  # the ellipsis, and then the labels that occur once, in order
        right = ("..." if "..." in left else "") + "".join(
            sorted(c for c in left if c.isalpha() and left.count(c) == 1)
        )
    dots = max((r - len(t) + 3 for t, r in zip(terms, ranks, strict=True) if "..." in t), default=0)
    letters = "".join([c for c in string.ascii_letters if c not in equation][:dots])
    *terms, right = (t.replace("...", letters) for t in [*terms, right])
    if any(len(set(t)) < len(t) for t in terms):
        raise NotImplementedError(f"a label that occurs twice in one operand of {equation!r}")
    return terms, right


def _einsum(op: Ops, n: Call, dy: ir.Value, index: int) -> ir.Value:
    """The same sum with dy in the place of this operand; what was summed alone is spread, what was broadcast summed."""
    terms, result = labels(n.attr("equation"), [n.rank(i) for i in range(len(n.x))])
    lengths = [dict(zip(t, n.shape(x), strict=True)) for t, x in zip(terms, n.x, strict=True)]
    mine, my_lengths = terms.pop(index), lengths.pop(index)
    longest = {c: max([1, *(others[c] for others in lengths if c in others)]) for c in mine}
    known = "".join(c for c in mine if c in {*result}.union(*terms))
    others = [x for i, x in enumerate(n.x) if i != index]
    dx = op.Einsum(dy, *others, equation=f"{','.join([result, *terms])}->{known}")
    broadcast = [i for i, c in enumerate(known) if my_lengths[c] == 1 < longest[c]]
    if broadcast:
        dx = op.ReduceSum(dx, broadcast, keepdims=1)
    alone = [i for i, c in enumerate(mine) if c not in known]
    if alone:
        dx = op.Unsqueeze(dx, alone)
    if any(c not in result and longest[c] == 1 for c in mine):
        dx = op.Expand(dx, op.Shape(n.x[index]))
    return dx


rule("Einsum", _einsum, ...)
