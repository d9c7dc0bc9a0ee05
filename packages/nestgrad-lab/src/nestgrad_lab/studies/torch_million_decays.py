"""Torch's side of million-decays."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import nestgrad_torch as ng
from nestgrad_lab.batches import Stream
from nestgrad_lab.data import load
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines.torch_engine import device_named
from nestgrad_lab.errors import DataError, OptionError
from nestgrad_lab.studies.million_decays_settings import PARTS, Settings
from nestgrad_lab.studies.study import Arrays, Context

Tree = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]


def scores(w: Tree, x: Tensor) -> Tensor:
    """(n, classes) of linear layers with ReLU between them."""
    layers = len(w) // 2
    for k in range(1, layers + 1):
        x = torch.addmm(w[f"b{k}"], x, w[f"w{k}"])
        x = x.relu() if k < layers else x
    return x


def error(w: Any, decays: Any, batch: Batch) -> Tensor:
    """The mean cross entropy."""
    return functional.cross_entropy(scores(w, batch[0]), batch[1])


def penalised(w: Any, decays: Any, batch: Batch) -> Tensor:
    """error + ½ Σ λ_j w_j²; decays: {"all": 0-d}, or for each of w one, 0-d or of its shape."""
    parts = [(decays.get(name, decays.get("all")) * value.square()).sum() for name, value in w.items()]
    return error(w, None, batch) + 0.5 * torch.stack(parts).sum()


class Decays:
    """One run: its rows, its first weights, and what is trained on them."""

    def __init__(self, settings: Settings, context: Context, run: int) -> None:
        one = settings
        self._settings, self._context, self._seed = one, context, [context.seed, run]
        self._device = device_named(context.device)
        data = load(one.data)
        both, asked = data.merged, one.train_rows + one.valid_rows
        if asked > len(both) or one.test_rows > len(data.test):
            raise DataError(
                f"{asked} and {one.test_rows} rows asked for, limit: {len(both)} and {len(data.test)}, all there are. "
                "Remedy: ask for fewer by --set."
            )
        if (one.sizes[0], one.sizes[-1]) != (len(data.features), data.outputs):
            raise OptionError(
                f"sizes {one.sizes}: {one.sizes[0]} inputs and {one.sizes[-1]} outputs, limit: {len(data.features)} "
                f"and {data.outputs}, those of {data.name}. Remedy: change the first and the last."
            )
        order = np.random.default_rng([*self._seed, 0]).permutation(len(both))
        rows = (order[: one.train_rows], order[one.train_rows : asked])
        train, valid = (self._batch(both.x[some], both.y[some]) for some in rows)
        test = self._batch(data.test.x[: one.test_rows], data.test.y[: one.test_rows])
        self._parts = dict(zip(PARTS, (train, valid, test), strict=True))
        self._start = self._drawn()

    def learned(self, kind: str) -> Arrays:
        """Train and tune; losses and accuracies at the looks, the decays at the end."""
        one = self._settings
        rows = self._parts["train"]
        if kind == "both":
            rows = (torch.cat([rows[0], self._parts["valid"][0]]), torch.cat([rows[1], self._parts["valid"][1]]))
        train = Stream(len(rows[0]), one.batch_rows, [*self._seed, 1])
        valid = Stream(one.valid_rows, one.outer_rows, [*self._seed, 2])
        tuner = self._tuner(kind, one.every)
        state: Any = tuner.init(self._start)
        outer = self._parts["valid"]
        seen: dict[str, list[float]] = {}
        for step in range(1, one.steps + 1):
            if (step - 1) % one.every == 0:
                outer = _taken(self._parts["valid"], valid)
            state, _ = tuner.step(state, _taken(rows, train), outer)
            if step % 5 == 0:
                self._context.tick(step / one.steps)
            if step % max(1, one.steps // one.looks) == 0 or step == one.steps:
                for name, value in {"step": step, **self._judged(state["params"])}.items():
                    seen.setdefault(name, []).append(value)
        decays = {name: value.cpu().numpy() for name, value in tuner.values(state).items()}
        inputs = np.log10(decays.get("w1", decays.get("all", np.array(one.decay))))
        pixels = np.broadcast_to(inputs.mean(-1) if inputs.ndim else inputs, one.sizes[0])
        joined = np.concatenate([value.reshape(-1) for value in decays.values()])
        return {**{name: np.array(values) for name, values in seen.items()}, "decays": joined, "pixels": pixels}

    def costs(self) -> Arrays:
        """Processor seconds (rounds,) and bytes at the peak: of a training step, hypergradients and hyper steps."""
        calls = self._calls()
        for call in calls.values():
            call()
            call()
        found: dict[str, Array] = {f"{name}: bytes": np.array(self._peak(call), float) for name, call in calls.items()}
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(self._settings.rounds):
            for name, call in calls.items():
                seconds[name].append(self._seconds(call))
            self._context.tick((number + 1) / self._settings.rounds)
        return {**found, **{f"{name}: seconds": np.array(values) for name, values in seconds.items()}}

    def _calls(self) -> dict[str, Callable[[], Any]]:
        one = self._settings
        weights = {name: value + 0.01 for name, value in self._start.items()}  # a bias of 0 has no decay
        train, outer = ((x[: one.cost_rows], y[: one.cost_rows]) for x, y in (self._parts[part] for part in PARTS[:2]))
        inner_loss = functools.partial(penalised, decays={"all": torch.tensor(one.decay, device=self._device)})
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        optimizer = torch.optim.SGD(leaves.values(), lr=one.rate, momentum=one.momentum)

        def training() -> None:
            inner_loss(leaves, batch=train).backward()
            optimizer.step()
            optimizer.zero_grad()  # last, so that its gradients count as taken by it

        def hypergradient(problem: ng.BilevelProblem, step_size: float, kind: str) -> Callable[[], Any]:
            hparams = {"all": torch.tensor(one.decay)}
            if kind != "one":
                shapes = {name: w.shape if kind == "many" else () for name, w in weights.items()}
                hparams = {name: torch.full(shape, one.decay) for name, shape in shapes.items()}
            return functools.partial(
                ng.hypergradient,
                problem,
                weights,
                {name: value.to(self._device) for name, value in hparams.items()},
                method=ng.Implicit(solver=ng.Neumann(num_terms=one.terms, step_size=step_size)),
                inner_batch=train,
                outer_batch=outer,
                throw=False,
            )

        def hyper_step(kind: str) -> Callable[[], Any]:
            tuner = self._tuner(kind, 1)
            state, _ = tuner.step(tuner.init(weights), train, outer)
            return lambda: tuner.step(state, train, outer)

        minimum = functools.partial(hypergradient, ng.BilevelProblem(ng.Minimize(penalised), error), one.rate)
        update = functools.partial(hypergradient, self._problem(), 1.0)
        return {
            "training": training,
            **{f"minimum {kind}": minimum(kind) for kind in ("one", "many")},
            **{f"update {kind}": update(kind) for kind in ("one", "tensors", "many")},
            "step one": hyper_step("one"),
            "step many": hyper_step("many"),
        }

    def _seconds(self, call: Callable[[], Any]) -> float:
        """Processor time; on a GPU, time on the clock until it is done."""
        clock = time.process_time if self._device.type == "cpu" else time.perf_counter
        began = clock()
        call()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    def _peak(self, call: Callable[[], Any]) -> int:
        """The most bytes that torch had allocated during the call, above those before it."""
        if self._device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            call()
            return torch.cuda.max_memory_allocated() - before
        from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415  (slow to load)

        with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            kept = call()
        results: Any = profiled.profiler
        events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        del kept
        return int(np.cumsum([event.nbytes() for event in events]).max(initial=0))

    def _tuner(self, kind: str, every: int) -> Any:
        problem, spaces = self._problem(), self._spaces(kind)
        if kind in ("fixed", "both"):
            return ng.Fixed(problem.inner, hparams=spaces)  # pyright: ignore[reportArgumentType]
        return ng.OnePass(
            problem,
            hparams=spaces,
            every=every,
            method=self._method(),
            outer_optimizer=functools.partial(torch.optim.Adam, lr=self._settings.outer_rate),
        )

    def _spaces(self, kind: str) -> dict[str, ng.Space]:
        decay = self._settings.decay
        if kind != "many":
            return {"all": ng.Log(decay)}
        return {name: ng.Log(torch.full_like(value, decay)) for name, value in self._start.items()}

    def _problem(self) -> ng.BilevelProblem:
        one = self._settings
        return ng.BilevelProblem(
            ng.WeightUpdate(penalised, lambda decays: ng.optim.sgd(one.rate, momentum=one.momentum)), error
        )

    def _method(self) -> ng.Implicit:
        return ng.Implicit(solver=ng.Neumann(num_terms=self._settings.terms, step_size=1.0))

    @torch.no_grad()
    def _judged(self, weights: Tree) -> dict[str, float]:
        found: dict[str, float] = {}
        for part, (x, y) in self._parts.items():
            seen = scores(weights, x)
            found[f"{part}_loss"] = float(functional.cross_entropy(seen, y))
            found[f"{part}_accuracy"] = float((seen.argmax(1) == y).float().mean())
        return found

    def _drawn(self) -> Tree:
        """w1, b1, w2, ...: normal of variance 2/inputs (He et al. 2015), biases 0."""
        rng, found, sizes = np.random.default_rng([*self._seed, 3]), dict[str, Tensor](), self._settings.sizes
        for k, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True), start=1):
            found[f"w{k}"] = self._put((2.0 / inputs) ** 0.5 * rng.standard_normal((inputs, outputs)))
            found[f"b{k}"] = self._put(np.zeros(outputs))
        return found

    def _batch(self, x: Array, y: Array) -> Batch:
        return self._put(x), torch.tensor(y, dtype=torch.int64, device=self._device)

    def _put(self, values: Array) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on the error stream, to which the profiler's own C++ writes lines of no concern."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _taken(whole: Batch, stream: Stream) -> Batch:
    """The stream's next batch."""
    rows = stream.take(1)
    return whole if rows is None else (whole[0][torch.tensor(rows[0])], whole[1][torch.tensor(rows[0])])
