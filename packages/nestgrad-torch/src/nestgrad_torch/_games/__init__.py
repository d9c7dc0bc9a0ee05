"""Games: products with the game Jacobian, and what players descend; nestgrad._games defines both."""
