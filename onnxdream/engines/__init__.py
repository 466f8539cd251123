"""Inference engines behind one interface; `select` is the way to one."""
