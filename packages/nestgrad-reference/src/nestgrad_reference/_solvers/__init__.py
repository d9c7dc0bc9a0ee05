"""One dense formula per solver spec."""
