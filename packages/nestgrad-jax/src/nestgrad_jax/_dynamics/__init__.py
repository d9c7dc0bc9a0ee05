"""Optimizers as maps that are iterated: their Lyapunov exponents, and what a branching search asks of them."""
