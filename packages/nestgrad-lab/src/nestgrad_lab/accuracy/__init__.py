"""How far first hypergradients lie from the derivative through the steps themselves."""
