"""DeepDream from ONNX files, without a deep-learning framework."""

__version__ = "0.1.0"
