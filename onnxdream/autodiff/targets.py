"""The runtimes that graphs are built for, and what each of them cannot run.

Rules ask `lacks` and choose another spelling; what stands in the network itself is respelt by `lower`. Both agree with
the spelling for `cpu`, the reference, which uses the fastest operators of onnxruntime.
"""

from __future__ import annotations

TARGETS = ("cpu", "cuda", "openvino", "opencv", "web")

INDICES = "the places of the maxima from MaxPool"
LRN = "LRN"
NEW_AXES = "Concat along new axes at the speed of arithmetic"
HARD_SIGMOID = "HardSigmoid at the speed of arithmetic"
SAME_PADS = "auto_pad SAME with a stride"
POINTWISE_PADS = "a convolution of one tap with padding"

# Found with openvino 2026.4 (CPU), opencv 5.0.0 (ENGINE_NEW) and the operator table of onnxruntime-web's WebGPU.
LACKS = {
    # Indices are wrong with auto_pad, and ScatterElements, which spreads them, is slow; the bias of LRN loses its
    # fraction. HardSigmoid and Concat along new axes leave the layout of the convolutions, and HardSigmoid takes a beta
    # of 0 for one not given; plain arithmetic runs in one pass, in any layout.
    "openvino": {INDICES, LRN, HARD_SIGMOID, NEW_AXES},
    # Indices count from the start of the picture, not of the batch; SAME_UPPER and SAME_LOWER put the odd sample on the
    # wrong side; kernels of one tap read beyond the input instead of its padding.
    "opencv": {INDICES, SAME_PADS, POINTWISE_PADS},
    "web": {INDICES, LRN},
}


def lacks(target: str, feature: str) -> bool:
    """Whether a graph for `target` must do without `feature`."""
    return feature in LACKS.get(target, ())
