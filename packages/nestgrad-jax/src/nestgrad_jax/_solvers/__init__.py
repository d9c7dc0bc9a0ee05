"""One rule per solver spec, each on flat vectors: rule(spec, system) -> Solve."""
