"""Games: the joint gradient of players, products with its Jacobian, and what players descend."""
