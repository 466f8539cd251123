"""Passes over ONNX graphs: from any file to one canonical form, and from there to a fitted one."""
