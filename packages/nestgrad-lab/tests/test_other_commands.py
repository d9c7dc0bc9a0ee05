"""`nestgrad backends` and `nestgrad check`."""

import functools
import json
import sys

import pytest

import nestgrad


def test_backends_lists_the_installed_and_what_is_not_built(lab):
    result = lab("backends")
    assert result.exit_code == 0
    for name in ("torch", "Neumann", "OnePass", "trained with by the lab", "Nystrom", "use instead"):
        assert name in result.output


def test_backends_without_any_names_the_remedy(lab, monkeypatch):
    monkeypatch.setattr("nestgrad_lab.backends.available_backends", dict)
    result = lab("backends")
    assert result.exit_code == 2
    assert "pip install" in result.stderr


@pytest.fixture
def suite(monkeypatch):
    """The conformance suite with two of its checks, of what every backend has."""
    module = pytest.importorskip("nestgrad_conformance")
    two = ["a_run_leaves_its_state_bit_identical", "dense_equals_closed_form_on_ridge"]
    assert set(two) <= set(module.CHECKS)
    monkeypatch.setattr(module, "check_backend", functools.partial(module.check_backend, checks=two))
    return two


def test_check_prints_a_line_for_each_check_and_writes_the_report(lab, suite):
    result = lab("check", "--backend", "torch", "--examples", 2, "--report", "report.json")
    assert result.exit_code == 0, result.output
    assert all(f"passed  {name}" in result.output for name in suite)
    assert "torch, float64, 2 examples a check: 2 passed, 0 failed" in result.output
    assert len(json.loads((lab.folder / "report.json").read_text())["checks"]) == 2


def test_check_fails_with_exit_code_one_when_a_check_does(lab, suite, monkeypatch):
    import nestgrad_torch

    right = nestgrad_torch.hypergradient

    def wrong(*arguments, **options):
        found = right(*arguments, **options)
        total = nestgrad.tree.map(lambda value: 2 * value + 1, found.total)
        return type(found)(
            total=total,
            direct=found.direct,
            indirect=found.indirect,
            outer_loss=found.outer_loss,
            status=found.status,
            stats=found.stats,
        )

    import nestgrad_conformance

    every = functools.partial(
        nestgrad_conformance.check_backend.func, checks=["dense_equals_closed_form_on_quadratics"]
    )
    monkeypatch.setattr(nestgrad_conformance, "check_backend", every)
    monkeypatch.setattr(nestgrad_torch, "hypergradient", wrong)
    result = lab("check", "--backend", "torch", "--examples", 2)
    assert result.exit_code == 1
    assert "1 failed" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "tensorfoo"), "'tensorfoo' is not installed"),
        (("--backend", "torch", "--dtype", "float16"), "limit: float64, float32"),
        (("--backend", "torch", "--examples", "0"), "--examples 0, limit: at least 1"),
        (("--backend", "torch", "--report", "absent/report.json"), "is no folder"),
        (("--backend", "absent.module:harness"), "absent"),
    ],
)
def test_bad_input_to_check_is_named(lab, arguments, message):
    pytest.importorskip("nestgrad_conformance")
    result = lab("check", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_check_without_the_suite_says_how_to_install_it(lab, monkeypatch):
    monkeypatch.setitem(sys.modules, "nestgrad_conformance", None)
    result = lab("check", "--backend", "torch")
    assert result.exit_code == 2
    assert "pip install nestgrad-conformance" in result.stderr
