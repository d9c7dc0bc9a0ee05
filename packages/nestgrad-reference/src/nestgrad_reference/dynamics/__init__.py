"""Optimizers as maps that are iterated, by dense float64 algebra: exponents, and their derivatives."""
