"""Differentiation is mathematics: nothing in it depends on the engine that a graph is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from helpers.paths import ROOT

AUTODIFF = ROOT / "onnxdream" / "autodiff"


@pytest.mark.parametrize("path", sorted(AUTODIFF.rglob("*.py")), ids=lambda p: str(p.relative_to(AUTODIFF)))
def test_no_rule_knows_a_target(path: Path) -> None:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)) | ast.Attribute(attr=name):
                names.add(name)
            case ast.Import(names=imported):
                names.update(part for alias in imported for part in alias.name.split("."))
            case ast.ImportFrom(module=module, names=imported):
                names.update([*(module or "").split("."), *(alias.name for alias in imported)])
    assert not names & {"target", "targets", "lacks", "lowering", "engines"}
