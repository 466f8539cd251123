"""The public API is documented: every parameter of what `onnxdream` exports is described in Google style."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import onnxdream


def documented(thing: object) -> Iterator[tuple[str, Callable[..., Any], str]]:
    """The name, signature and docstring of `thing` and, for a class or module, of its public members."""
    if isinstance(thing, types.ModuleType):
        members = [m for n, m in vars(thing).items() if n[0] != "_" and getattr(m, "__module__", "") == thing.__name__]
        for member in members:
            yield from documented(member)
    elif isinstance(thing, type):
        yield thing.__name__, thing, thing.__doc__ or ""
        for name, member in vars(thing).items():
            function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            public = not name.startswith("_") or name == "__call__"
            public &= getattr(function, "__name__", "") != "<lambda>"  # the default of a field
            if public and inspect.isfunction(function):
                yield f"{thing.__name__}.{name}", function, function.__doc__ or ""
    elif callable(thing):
        yield thing.__name__, thing, thing.__doc__ or ""


PUBLIC = {name: item for export in onnxdream.__all__ for name, *item in documented(getattr(onnxdream, export))}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_is_documented(name: str) -> None:
    function, docstring = PUBLIC[name]
    if isinstance(function, type) and issubclass(function, Exception):
        return
    parameters = [p for p in inspect.signature(function).parameters if p != "self" and not p.startswith("_")]
    described = set(
        re.findall(r"^ +\*{0,2}(\w+)(?: \([^)]*\))?: ", inspect.getdoc(function) or docstring, re.MULTILINE)
    )
    assert set(parameters) <= described, f"{name}: {sorted(set(parameters) - described)}"
