"""The runtimes that graphs are built for, and what each of them cannot run, or not at speed.

Rewrites ask `lacks` and choose other operators. Graphs for every target agree with those for `cpu`, the reference.
"""

from __future__ import annotations

TARGETS = ("cpu", "cuda", "openvino", "opencv", "web")

INDICES = "the places of the maxima from MaxPool"
LRN = "LRN"
DYNAMIC_QUANTIZATION = "DynamicQuantizeLinear"
NEW_AXES = "Concat along new axes at the speed of arithmetic"
HARD_SIGMOID = "HardSigmoid at the speed of arithmetic"
SAME_PADS = "auto_pad SAME with a stride"
POINTWISE_PADS = "a convolution of one tap with padding"
TRANSPOSED = "ConvTranspose at the speed of Conv"
FUSED_MASKS = "masks that cost no pass of their own over memory"
FEW_PRODUCTS = "convolutions of many channels by few multiplications"
HOST_COPIES = "numbers of the graph that the host reads without waiting"
BLOCKED_LAYOUT = "a layout of convolutions that depthwise ones, products and HardSigmoid keep"

# Found with openvino 2026.4 (CPU), opencv 5.0.0 (ENGINE_NEW) and the operator table of onnxruntime-web's WebGPU.
LACKS = {
    "cpu": {TRANSPOSED},
    # Its operators are kernels that nothing fuses: what counts is how many there are and how many bytes they move.
    "cuda": {FUSED_MASKS, HOST_COPIES, BLOCKED_LAYOUT, DYNAMIC_QUANTIZATION},
    # Indices are wrong with auto_pad, and ScatterElements, which spreads them, is slow; the bias of LRN loses its
    # fraction. HardSigmoid and Concat along new axes leave the layout of the convolutions, and HardSigmoid takes a beta
    # of 0 for one not given; plain arithmetic runs in one pass, in any layout.
    "openvino": {INDICES, LRN, HARD_SIGMOID, NEW_AXES, TRANSPOSED, FEW_PRODUCTS, BLOCKED_LAYOUT},
    # Indices count from the start of the picture, not of the batch; SAME_UPPER and SAME_LOWER put the odd sample on the
    # wrong side; kernels of one tap read beyond the input instead of its padding.
    "opencv": {INDICES, SAME_PADS, POINTWISE_PADS, TRANSPOSED, BLOCKED_LAYOUT, DYNAMIC_QUANTIZATION},
    "web": {INDICES, LRN, TRANSPOSED, BLOCKED_LAYOUT, DYNAMIC_QUANTIZATION},
}


def lacks(target: str, feature: str) -> bool:
    """Whether a graph for `target` must do without `feature`."""
    return feature in LACKS.get(target, ())
