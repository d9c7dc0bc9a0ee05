"""Searches over many trials: Bayesian optimisation, and Ray Tune's ASHA and population-based training."""
