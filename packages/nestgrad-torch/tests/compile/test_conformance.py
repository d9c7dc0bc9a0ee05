"""The conformance suite once more, every call that can be traced being a trace replayed."""

import dataclasses
import types

import pytest

import nestgrad_torch as ng
from nestgrad_conformance import parametrize_with_checks
from nestgrad_torch._compile import programs
from nestgrad_torch.testing import harness


def _hypergradient(*args, **options):
    try:
        return ng.hypergradient(*args, compile=True, **options)
    except ng.UnsupportedSpec as refusal:
        if "compile=True" not in str(refusal):
            raise
        return ng.hypergradient(*args, **options)


class _OnePass(ng.OnePass):
    def __init__(self, problem, **options):
        try:
            super().__init__(problem, compile=True, **options)
        except ng.UnsupportedSpec as refusal:
            if "compile=True" not in str(refusal):
                raise
            super().__init__(problem, **options)


def _traced():
    backend = types.ModuleType("nestgrad_torch")
    public = {name: value for name, value in vars(ng).items() if not name.startswith("__")}
    vars(backend).update(public, hypergradient=_hypergradient, OnePass=_OnePass)
    return dataclasses.replace(harness(), backend=backend)


@pytest.mark.filterwarnings("ignore::nestgrad.ZeroHypergradient", "ignore::nestgrad.Recompilation")
@parametrize_with_checks(_traced(), dtypes=("float64",), max_examples=2)
def test_conformance_of_traced_programs(run, monkeypatch):
    monkeypatch.setattr(programs, "CANDIDATES", ("traced",))
    run()
