"""One dense formula per method spec."""
