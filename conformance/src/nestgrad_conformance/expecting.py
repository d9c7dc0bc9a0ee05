"""Expecting an error: of this type, naming these words, with a limit and a remedy."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from nestgrad import NestgradError


class Caught:
    """The error that was raised, once the block has ended."""

    error: Any = None


@contextmanager
def refused(kind: type[NestgradError], *words: str) -> Generator[Caught]:
    """Assert that the block raises this kind of error, whose text has one of the words, "limit" and "Remedy:"."""
    caught = Caught()
    try:
        yield caught
    except NestgradError as error:
        caught.error = error
    assert caught.error is not None, f"nothing raised, expected {kind.__name__}"
    text = str(caught.error)
    assert isinstance(caught.error, kind), f"{type(caught.error).__name__} instead of {kind.__name__}: {text}"
    assert not words or any(word in text for word in words), f"none of {words} in {text!r}"
    assert "limit" in text, f"no limit in {text!r}"
    assert "Remedy:" in text, f"no remedy in {text!r}"
