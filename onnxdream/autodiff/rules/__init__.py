"""One derivative rule for every operator, in files by family; importing this package registers them all."""

from . import conv, elementwise, linear, norm, pool, reduce, resize, shape

__all__ = ["conv", "elementwise", "linear", "norm", "pool", "reduce", "resize", "shape"]
