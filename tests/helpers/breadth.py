"""Which of many cases run every day; the others are proofs of breadth, for `pytest -m slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def everyday(cases: Iterable[Any], every: int) -> list[Any]:
    """Cases for `parametrize`, tuples where it has several names: all are slow but each `every`-th."""
    return [case if number % every == 0 else _slow(case) for number, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    if not hasattr(case, "marks"):
        case = pytest.param(*case) if isinstance(case, tuple) else pytest.param(case)
    return case._replace(marks=[*case.marks, pytest.mark.slow])
