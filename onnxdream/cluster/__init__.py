"""Dreaming on a Ray cluster."""
