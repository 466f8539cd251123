"""Reverse-mode differentiation of ONNX graphs in standard ONNX operators."""

from .gradient import backward
from .ops import Ops

__all__ = ["Ops", "backward"]
