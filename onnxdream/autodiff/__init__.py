"""Reverse-mode differentiation of ONNX graphs: mathematics, whatever runtime the graphs are for."""

from .gradient import backward

__all__ = ["backward"]
