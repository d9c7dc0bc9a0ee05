"""One rule per method spec."""
