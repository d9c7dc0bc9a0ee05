"""Optimizers as maps that are iterated: how fast nearby points part, and the search that branches where they do."""
