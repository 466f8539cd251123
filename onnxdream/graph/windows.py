"""The windows of convolutions and pooling, whatever way the node states them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Window:
    """One spatial axis of a convolution or pooling node; sizes in samples of its input."""

    kernel: int
    stride: int
    dilation: int
    pad_begin: int
    pad_end: int
    same: bool = False  # auto_pad SAME_* with a stride: the padding depends on the input's size

    @property
    def span(self) -> int:
        """Samples from the first to the last tap, inclusive."""
        return (self.kernel - 1) * self.dilation + 1

    def smallest_input(self, outputs: int) -> int:
        """The fewest input samples that give `outputs` output samples."""
        if self.same:
            return (outputs - 1) * self.stride + 1
        return max(1, (outputs - 1) * self.stride + self.span - self.pad_begin - self.pad_end)


def windows(node: onnx.NodeProto, kernel_shape: tuple[int, ...] | None = None) -> list[Window]:
    """The node's windows, one for each spatial axis; `kernel_shape` where the node leaves it to its weight."""
    attributes = {a.name: (a.s.decode() if a.s else a.i if a.type == 2 else list(a.ints)) for a in node.attribute}
    kernel = list(attributes.get("kernel_shape", kernel_shape or ()))
    axes = len(kernel)
    strides = attributes.get("strides") or [1] * axes
    dilations = attributes.get("dilations") or [1] * axes
    pads = attributes.get("pads") or [0] * (2 * axes)
    auto_pad = attributes.get("auto_pad", "NOTSET")
    if auto_pad == "VALID":
        pads = [0] * (2 * axes)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        if any(s > 1 for s in strides):
            return [Window(kernel[i], strides[i], dilations[i], 0, 0, same=True) for i in range(axes)]
        less = [(k - 1) * d // 2 for k, d in zip(kernel, dilations, strict=True)]
        more = [(k - 1) * d - p for k, d, p in zip(kernel, dilations, less, strict=True)]
        pads = less + more if auto_pad == "SAME_UPPER" else more + less
    return [Window(kernel[i], strides[i], dilations[i], pads[i], pads[i + axes]) for i in range(axes)]
