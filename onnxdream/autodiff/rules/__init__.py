"""One derivative rule for every operator, in files by family; importing this package registers them all."""

from . import (
    activation,
    conv,
    einsum,
    elementwise,
    gather,
    linear,
    lp,
    max_pool,
    norm,
    pool,
    quantize,
    reduce,
    resize,
    sample,
    shape,
)

__all__ = [
    "activation",
    "conv",
    "einsum",
    "elementwise",
    "gather",
    "linear",
    "lp",
    "max_pool",
    "norm",
    "pool",
    "quantize",
    "reduce",
    "resize",
    "sample",
    "shape",
]
