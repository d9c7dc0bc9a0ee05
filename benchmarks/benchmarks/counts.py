"""The gate: exact counts of what each method does, compared with those that are checked in.

    python -m benchmarks.counts             # compare with counts.json; exit 1, naming each count that changed
    python -m benchmarks.counts --write     # record what is counted now, on purpose
    python -m benchmarks.counts --backend jax

Counted on P1, in a warm call. torch: calls of the losses (a graph built again calls one again), backward passes, FLOP
of matrix products, bytes that autograd saves, reads by the host; with compile=True, programs made. jax: losses traced,
programs compiled, matrix products in the jaxpr, reads by the host. Both: products with J, as the result reports them;
and for a tuner, ten steps of which one is a hyper step. No clock is read, so that the machine does not matter; the
frameworks' versions may.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nestgrad as ng
from benchmarks.frameworks import BACKENDS, require, side_of
from benchmarks.methods import methods
from benchmarks.operations import EVERY
from benchmarks.problems import problem

RECORD = Path(__file__).parents[1] / "counts.json"
COMPILED_SLOWLY = ("neumann 50", "random neumann", "minres", "gmres", "normal cg", "unrolled, iterates kept", "sama")
"""Left out in jax, whose programs for them take seconds to compile and share their parts with the others."""
Counts = dict[str, int]


class Counted:
    """The counts of one backend; each method is a fresh problem, so that none finds another's programs."""

    def __init__(self, backend: str) -> None:
        require(backend)
        self.backend, self.module = backend, side_of(backend)
        self.counting: Any = importlib.import_module(f"benchmarks.counting.in_{backend}")

    def names(self) -> list[str]:
        """What is counted: the methods that the backend supports, then the tuner's two forms."""
        left_out = COMPILED_SLOWLY if self.backend == "jax" else ("neumann 50",)
        compiled = ["identity, compiled"] if self.backend == "torch" else []
        return [*(name for name in methods(1.0) if name not in left_out), "one-pass, steps", "one-pass, run", *compiled]

    def of(self, name: str) -> Counts:
        """The counts of one entry; NotImplementedError where the backend lacks it."""
        here = self.module.side(problem("P1"))
        if name.endswith(", compiled"):
            return self._compiled(here, name)
        if name.startswith("one-pass"):
            call, found = self._tuning(here, run=name.endswith("run")), {}
        else:
            call = here.hypergradient(methods(here.problem.rate)[name])
            found = {"products": int(call().stats.products)}
            if self.backend == "jax":
                found["matrix products"] = self.counting.products(_function(call), *_arguments(here))
        call()
        call()
        return found | self.counting.counted(call, here.calls)

    def all(self) -> Iterator[tuple[str, Counts]]:
        """(name, counts), one after another."""
        for name in self.names():
            try:
                yield name, self.of(name)
            except NotImplementedError:
                continue

    def _compiled(self, here: Any, name: str) -> Counts:
        """compile=True in torch; which form it finds the fastest depends on the machine, and is not counted."""
        call = here.hypergradient(methods(here.problem.rate)[name.removesuffix(", compiled")], compiled=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ng.NestgradWarning)  # there need be no C++ compiler
            return self.counting.compiled(call)

    def _tuning(self, here: Any, *, run: bool) -> Callable[[], Any]:
        tuner, state = here.one_pass()
        if run:
            if not hasattr(tuner, "run"):
                raise NotImplementedError(f"{self.backend}: OnePass has no run")
            return lambda: tuner.run(state, [here.inner] * EVERY, here.outer)

        def steps() -> Any:
            at = state
            for _ in range(EVERY):
                at, _ = tuner.step(at, here.inner, here.outer)
            return at["params"]

        return steps


def _function(call: Any) -> Callable[..., Any]:
    """The call as a function of its arrays."""

    def function(params: Any, decays: Any, inner: Any, outer: Any) -> Any:
        given = {**call.keywords, "inner_batch": inner, "outer_batch": outer}
        return call.func(call.args[0], params, decays, **given).total

    return function


def _arguments(here: Any) -> tuple[Any, ...]:
    return here.params, here.decays, here.inner, here.outer


def differences(old: dict[str, Counts], new: dict[str, Counts]) -> list[str]:
    """One line a count that changed, appeared or went."""
    found = []
    for entry in {**old, **new}:
        before, after = old.get(entry, {}), new.get(entry, {})
        for count in {**before, **after}:
            if before.get(count) != after.get(count):
                was, now = (str(each.get(count, "none")) for each in (before, after))
                found.append(f"{entry}: {count}: {was} recorded, {now} now")
    return found


def versions() -> dict[str, str]:
    """The frameworks that the counts were made with."""
    return {name: importlib.import_module(name).__version__.partition("+")[0] for name in BACKENDS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record the counts of now")
    parser.add_argument("--backend", default=",".join(BACKENDS), help="torch, jax or both")
    options = parser.parse_args(arguments)
    backends = options.backend.split(",")
    if options.write and set(backends) != set(BACKENDS):
        parser.error("--write records every backend; leave --backend out")
    new = {backend: dict(Counted(backend).all()) for backend in backends}
    if options.write:
        record = {"versions": versions(), "counts": new}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{RECORD.name}: {sum(map(len, new.values()))} entries written")  # noqa: T201
        return 0
    return compare(json.loads(RECORD.read_text(encoding="utf-8")), new)


def compare(record: dict[str, Any], new: dict[str, dict[str, Counts]]) -> int:
    """Print what changed; 1 when anything did."""
    changed = [
        f"{backend}: {line}"
        for backend, counts in new.items()
        for line in differences(record["counts"].get(backend, {}), counts)
    ]
    print("\n".join(changed) if changed else f"{sum(map(len, new.values()))} entries: every count as recorded")  # noqa: T201
    here = {name: version for name, version in versions().items() if version != record["versions"].get(name)}
    if changed and here:
        print(f"recorded with {record['versions']}, here {here}: another version may count differently")  # noqa: T201
    if changed:
        print("Remedy: mend the change, or where it is meant: python -m benchmarks.counts --write")  # noqa: T201
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
