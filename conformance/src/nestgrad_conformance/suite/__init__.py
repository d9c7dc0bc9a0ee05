"""The door for `pytest --pyargs nestgrad_conformance`."""
