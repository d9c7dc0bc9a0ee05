"""Experiments: declared in a file, run in cells that survive a crash, and told in tables and pictures."""
