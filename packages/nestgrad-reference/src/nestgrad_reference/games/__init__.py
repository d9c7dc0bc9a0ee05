"""Games of several players by dense float64 algebra: products, directions."""
