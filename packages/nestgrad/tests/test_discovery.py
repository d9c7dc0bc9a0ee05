"""Backends are found by entry point and imported only when asked for."""

import sys

import pytest

from nestgrad import GROUP, NOT_BUILT, OPTIONAL, SPECS, UnknownBackend, available_backends, get_backend, support_table

MODULE = """
from nestgrad import Dense, Implicit, Minimize
SUPPORTED = {Minimize, Implicit, Dense}
def supports(spec_type):
    return spec_type in SUPPORTED
def hypergradient(problem, params, hparams, *, method, **rest):
    return "the number"
"""


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """A third party's installed backend, as pip would leave it."""
    (tmp_path / "acme_nestgrad.py").write_text(MODULE)
    info = tmp_path / "acme_nestgrad-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-nestgrad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nacme = acme_nestgrad\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "acme"
    sys.modules.pop("acme_nestgrad", None)


def test_an_installed_backend_is_listed_without_being_imported(acme):
    assert acme in available_backends()
    assert "acme_nestgrad" not in sys.modules


def test_backends_are_listed_by_name(acme):
    names = list(available_backends())
    assert names == sorted(names)


def test_get_backend_returns_the_module(acme):
    backend = get_backend(acme)
    assert backend.__name__ == "acme_nestgrad"
    assert backend.hypergradient(None, None, None, method=None) == "the number"


def test_an_unknown_backend_is_refused_with_the_installed_ones(acme):
    with pytest.raises(
        UnknownBackend, match=r"backend 'acne' is not installed, limit: .*\bacme\b.*Remedy: pip install"
    ):
        get_backend("acne")


def test_the_support_table_has_a_row_a_backend_and_every_name(acme):
    row = support_table()[acme]
    assert row.keys() == SPECS.keys() | set(OPTIONAL) | NOT_BUILT.keys()
    assert [name for name, yes in row.items() if yes] == ["Minimize", "Implicit", "Dense"]


def test_what_is_not_built_is_false_for_every_backend(acme):
    for row in support_table().values():
        assert not any(row[name] for name in NOT_BUILT)
