"""The gate of counts finds regressions planted on purpose, names each, and finds nothing where none is planted."""

import dataclasses
import importlib
import itertools
import json
import sys

import pytest

from benchmarks import counts, frameworks

RECORD = json.loads(counts.RECORD.read_text(encoding="utf-8"))


@pytest.fixture
def backend(request):
    pytest.importorskip(request.param)
    return importlib.import_module(f"nestgrad_{request.param}")


torch_only = pytest.mark.parametrize("backend", ["torch"], indirect=True)
jax_only = pytest.mark.parametrize("backend", ["jax"], indirect=True)
both = pytest.mark.parametrize("backend", frameworks.BACKENDS, indirect=True)


def _gate(backend, entry):
    """The gate's exit code on one entry."""
    name = backend.__name__.removeprefix("nestgrad_")
    record = {"versions": RECORD["versions"], "counts": {name: {entry: RECORD["counts"][name][entry]}}}
    return counts.compare(record, {name: {entry: counts.Counted(name).of(entry)}})


def _patch_everywhere(monkeypatch, package, original, wrapped):
    """Each module of the package that has the function under its own name has the wrapped one instead."""
    for module in [m for key, m in sys.modules.items() if key.startswith(package)]:
        if getattr(module, original.__name__, None) is original:
            monkeypatch.setattr(module, original.__name__, wrapped)


@both
@pytest.mark.parametrize("entry", ["neumann", "one-pass, steps"])
def test_nothing_is_found_where_nothing_is_planted(backend, entry, capsys):
    assert _gate(backend, entry) == 0, capsys.readouterr().out


@torch_only
def test_torch_one_graph_built_again_per_term(backend, monkeypatch, capsys):
    import torch

    from nestgrad_torch._derivatives import Linearization, linearize

    made = {}

    def remembering(*args, **kwargs):
        found = linearize(*args, **kwargs)
        made[id(found)] = args, kwargs
        return found

    def pull(self, vector, inputs, *, retain_graph=True):
        args, kwargs = made[id(self)]
        again = linearize(*args, **kwargs)
        return list(torch.autograd.grad(again.residual, inputs, vector, allow_unused=True))

    _patch_everywhere(monkeypatch, "nestgrad_torch", linearize, remembering)
    monkeypatch.setattr(Linearization, "_pull", pull)
    assert _gate(backend, "neumann") == 1
    said = capsys.readouterr().out
    assert "torch: neumann: inner losses: 1 recorded, 7 now" in said
    assert "torch: neumann: matrix FLOP: " in said


@jax_only
def test_jax_one_graph_built_again_per_term(backend, monkeypatch, capsys):
    from nestgrad_jax._derivatives import linearize

    def rebuilding(*args, **kwargs):
        found = linearize(*args, **kwargs)
        return dataclasses.replace(found, transpose_product=lambda q: linearize(*args, **kwargs).transpose_product(q))

    _patch_everywhere(monkeypatch, "nestgrad_jax", linearize, rebuilding)
    assert _gate(backend, "neumann") == 1
    assert "jax: neumann: matrix products: " in capsys.readouterr().out


@torch_only
@pytest.mark.filterwarnings("ignore::nestgrad.NestgradWarning")
def test_torch_one_program_made_per_call(backend, monkeypatch, capsys):
    from nestgrad_torch._compile import hypergradients, programs

    signature, fresh = hypergradients.signature, itertools.count()

    def ever_new(values):
        tokens, leaves = signature(values)
        return (*tokens, next(fresh)), leaves

    monkeypatch.setattr(hypergradients, "signature", ever_new)
    monkeypatch.setattr(programs, "_inductor", lambda *args: {})  # the trace alone: seconds
    assert _gate(backend, "identity, compiled") == 1
    assert "torch: identity, compiled: programs made again: 0 recorded, 1 now" in capsys.readouterr().out


@jax_only
def test_jax_one_program_compiled_per_step(backend, monkeypatch, capsys):
    start, step, arguments = backend.OnePass.__init__, backend.OnePass.step, {}

    def remember(self, *args, **kwargs):
        arguments[id(self)] = args, kwargs
        start(self, *args, **kwargs)

    def by_new_functions(self, *args):
        given, named = arguments[id(self)]
        return step(backend.OnePass(*given, **named), *args)

    monkeypatch.setattr(backend.OnePass, "__init__", remember)
    monkeypatch.setattr(backend.OnePass, "step", by_new_functions)
    assert _gate(backend, "one-pass, steps") == 1
    said = capsys.readouterr().out
    assert "jax: one-pass, steps: compilations: 0 recorded, " in said
    assert "jax: one-pass, steps: inner losses: 0 recorded, " in said


@torch_only
def test_torch_a_host_read_per_step(backend, monkeypatch, capsys):
    from nestgrad_torch._solvers import SOLVERS

    rule = SOLVERS._rules[backend.CG]

    def reading(spec, system):
        def apply(vector):
            assert float(vector.norm()) >= 0.0
            return system.apply(vector)

        return rule(spec, dataclasses.replace(system, apply=apply))

    monkeypatch.setitem(SOLVERS._rules, backend.CG, reading)
    assert _gate(backend, "cg") == 1
    was = RECORD["counts"]["torch"]["cg"]["host reads"]
    assert f"torch: cg: host reads: {was} recorded, {was + 10} now" in capsys.readouterr().out


@both
def test_a_host_read_per_training_step(backend, monkeypatch, capsys):
    step = backend.OnePass.step

    def reading(self, *args):
        state, info = step(self, *args)
        assert float(info.inner_loss) >= 0.0
        return state, info

    monkeypatch.setattr(backend.OnePass, "step", reading)
    assert _gate(backend, "one-pass, steps") == 1
    name = backend.__name__.removeprefix("nestgrad_")
    was = RECORD["counts"][name]["one-pass, steps"]["host reads"]
    assert f"{name}: one-pass, steps: host reads: {was} recorded, {was + 10} now" in capsys.readouterr().out


def test_a_count_that_goes_or_comes_is_named_too():
    old, new = {"cg": {"products": 10, "host reads": 1}}, {"cg": {"products": 10}, "neumann": {"products": 5}}
    assert counts.differences(old, new) == [
        "cg: host reads: 1 recorded, none now",
        "neumann: products: none recorded, 5 now",
    ]
    assert counts.differences(old, old) == []
