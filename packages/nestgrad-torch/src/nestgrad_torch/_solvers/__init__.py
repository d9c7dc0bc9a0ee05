"""One rule per solver spec, each on flat vectors: rule(spec, operator, rhs, symmetric, scale) -> Solve."""
