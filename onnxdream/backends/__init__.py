"""Inference engines. ONNX Runtime is the one a dream runs on."""
