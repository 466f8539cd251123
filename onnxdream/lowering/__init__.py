"""Finishing graphs for the engine they are to run on: one family of operators a file."""

from .finish import finish

__all__ = ["finish"]
