"""Inference engines, and the choice among them."""
