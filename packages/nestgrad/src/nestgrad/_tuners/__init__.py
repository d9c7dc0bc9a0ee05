"""Tuner definitions: what happens on which training step."""
