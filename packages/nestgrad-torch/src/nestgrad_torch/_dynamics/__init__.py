"""Optimizers as maps: exponents of their steps, and what a search that branches along them explores."""
