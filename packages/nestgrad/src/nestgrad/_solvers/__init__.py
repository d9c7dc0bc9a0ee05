"""Linear-solver specs: each says which vector p stands for the solution of Jᵀp = v."""
