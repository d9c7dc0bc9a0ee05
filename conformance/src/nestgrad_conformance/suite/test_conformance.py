"""One test, parametrised by every check and dtype."""

from collections.abc import Callable


def test_conformance(nestgrad_run: Callable[[], None]) -> None:
    """The check holds for this backend."""
    nestgrad_run()
