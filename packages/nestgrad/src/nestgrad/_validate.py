"""Checks that specs share: numbers in range, with the field and the offending value in the message."""

from __future__ import annotations

import math
from typing import Any

from nestgrad._errors import InvalidInput


def require_count(spec: Any, field: str, least: int) -> None:
    """Raise InvalidInput unless the field is an int (no bool) of at least `least`."""
    value = getattr(spec, field)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(
            f"{type(spec).__name__}.{field}: got {value!r}, limit: an int of at least {least}. "
            f"Remedy: pass {field}={least} or more."
        )


def require_number(spec: Any, field: str, *, positive: bool) -> None:
    """Raise InvalidInput unless the field is a finite real number, above 0 (positive) or not below it."""
    value = getattr(spec, field)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (positive and value == 0):
        limit = "a finite number above 0" if positive else "a finite number of at least 0"
        raise InvalidInput(
            f"{type(spec).__name__}.{field}: got {value!r}, limit: {limit}. Remedy: pass a plain Python float."
        )


def require_choice(spec: Any, field: str, choices: tuple[Any, ...]) -> None:
    """Raise InvalidInput unless the field is one of the choices."""
    value = getattr(spec, field)
    if value not in choices:
        raise InvalidInput(
            f"{type(spec).__name__}.{field}: got {value!r}, limit: one of {', '.join(map(repr, choices))}. "
            f"Remedy: pass {field}={choices[0]!r}."
        )
