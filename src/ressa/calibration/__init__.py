"""Calibration: what pruning methods learn from a model's inputs, and the walk that gathers it."""
