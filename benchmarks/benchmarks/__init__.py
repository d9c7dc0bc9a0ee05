"""Benchmarks of nestgrad for asv, through public names only."""
