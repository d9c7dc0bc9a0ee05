"""Torch's side of recurrent-regularisation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import nestgrad_torch as ng
from nestgrad_lab.batches import Stream
from nestgrad_lab.data import load
from nestgrad_lab.data.dataset import Part
from nestgrad_lab.engines.torch_engine import device_named
from nestgrad_lab.errors import DataError
from nestgrad_lab.networks import Lstm
from nestgrad_lab.networks.network import chunks
from nestgrad_lab.studies.recurrent_regularisation_settings import PENALTIES, RATES, TUNED, Settings
from nestgrad_lab.studies.study import Arrays, Context

Tree = dict[str, Tensor]
EMBEDDING = 0.1
"""The standard deviation of the first embedding, which is the decoder too."""
CLIP = (1e-4, 0.95)
"""Rates stay in here."""


def relaxed(rate: Tensor, noise: Tensor) -> Tensor:
    """1 + ε √(p/(1-p)): a factor with the mean 1 and the variance of dropout's, differentiable in its rate p."""
    return 1.0 + noise * (rate / (1.0 - rate)).sqrt()


def states(network: Lstm, w: Tree, words: Tensor, rates: Tree | None = None, noise: Tree | None = None) -> Tensor:
    """The last layer's states (n, window, hidden) before output dropout; without rates, no noise at all."""
    embedding = w["embedding.weight"]
    if rates is not None and noise is not None:
        embedding = embedding * relaxed(rates["embedding"], noise["embedding"])[:, None]
    seen = functional.embedding(words, embedding)
    if rates is not None and noise is not None:
        seen = seen * relaxed(rates["input"], noise["input"])[:, None]
    for layer in range(network.layers):
        names = (f"lstm.{name}_l{layer}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        from_input, from_state, bias, other = (w[name] for name in names)
        if rates is not None and noise is not None:
            from_state = from_state * relaxed(rates["connect"], noise["connect"][layer])
        given = functional.linear(seen, from_input, bias + other)
        seen = _through(given, from_state.T)
        if rates is not None and noise is not None and layer < network.layers - 1:
            seen = seen * relaxed(rates["hidden"], noise["hidden"])[:, None]
    return seen


def _through(given: Tensor, from_state: Tensor) -> Tensor:
    """The states of one layer, from what its inputs give to the gates; gates in torch.nn.LSTM's order."""
    state = cell = torch.zeros_like(given[:, 0, : from_state.shape[0]])
    found: list[Tensor] = []
    for step in range(given.shape[1]):
        write, keep, candidate, read = (given[:, step] + state @ from_state).chunk(4, dim=1)
        cell = keep.sigmoid() * cell + write.sigmoid() * candidate.tanh()
        state = read.sigmoid() * cell.tanh()
        found.append(state)
    return torch.stack(found, dim=1)


def word_loss(w: Tree, seen: Tensor, following: Tensor) -> Tensor:
    """The mean cross entropy of the words that follow."""
    scores = functional.linear(seen, w["embedding.weight"], w["decoder.bias"])
    return functional.cross_entropy(scores.flatten(0, 1), following.flatten())


class LanguageModel:
    """One run: its words, its first weights, and what is trained on them."""

    def __init__(self, settings: Settings, context: Context, run: int) -> None:
        one = settings
        self._settings, self._context, self._seed = one, context, [context.seed, run]
        self._device = device_named(context.device)
        data = load("wikitext-2", window=one.window, vocabulary=one.vocabulary)
        self._network = Lstm(data.outputs, one.window, one.hidden, one.layers)
        first = run * one.train_windows % max(1, len(data.train) - one.train_windows + 1)
        self._train = self._windows(data.train, one.train_windows, first)
        self._valid = self._windows(data.valid, one.valid_windows)
        self._test = self._windows(data.test, one.test_windows)
        drawn = self._network.draw("float32", [*self._seed, 4])
        del drawn["decoder.weight"]
        drawn["embedding.weight"] = EMBEDDING * drawn["embedding.weight"]
        self._start = {name: torch.tensor(value, device=self._device) for name, value in drawn.items()}
        self._noise = torch.Generator("cpu").manual_seed(int(np.random.default_rng([*self._seed, 3]).integers(2**31)))

    def learned(self, method: str, begin: dict[str, float]) -> Arrays:
        """Train, tune if the method does, and look at losses and hyperparameters now and then."""
        one, tuned = self._settings, method in TUNED
        train = Stream(one.train_windows, one.batch_rows, [*self._seed, 1])
        valid = Stream(one.valid_windows, one.outer_rows, [*self._seed, 2])
        rate, least, since, drops = one.rate, float("inf"), 0, 0
        tuner = self._tuner(method, begin, rate)
        state: Any = tuner.init(self._start)
        outer: Tree = {}
        seen: dict[str, list[float]] = {}
        for step in range(1, one.steps + 1):
            if (step - 1) % one.every == 0 and tuned:
                outer = _taken(self._valid, valid)
            batch = {**_taken(self._train, train), **self._drawn()}
            state, _ = tuner.step(state, batch, outer)
            if step % 10 == 0:
                self._context.tick(step / one.steps)
            if step % max(1, one.steps // one.looks):
                continue
            losses = self._losses(state["params"])
            values = {name: float(value.mean()) for name, value in tuner.values(state).items()}
            for name, value in {"step": step, **losses, **values}.items():
                seen.setdefault(name, []).append(value)
            since = 0 if losses["valid"] < least else since + 1
            least = min(least, losses["valid"])
            if since >= one.patience and drops < one.drops:
                rate, since, drops = rate / 4, 0, drops + 1
                tuner = self._tuner(method, begin, rate)  # it goes on from the state
        last = {f"all {name}": value.flatten().cpu().numpy() for name, value in tuner.values(state).items()}
        return {**{name: np.array(values) for name, values in seen.items()}, **last}

    def inner_loss(self, w: Any, h: Any, batch: Tree) -> Tensor:
        """Cross entropy under noise + α mean of the squared outputs + β of the squared steps of the states."""
        raw = states(self._network, w, batch["x"], h, batch)
        seen = raw * relaxed(h["output"], batch["output"])[:, None]
        steps = (raw[:, 1:] - raw[:, :-1]).square().mean()
        return word_loss(w, seen, batch["y"]) + h["alpha"] * seen.square().mean() + h["beta"] * steps

    def outer_loss(self, w: Any, h: Any, batch: Tree) -> Tensor:
        """Cross entropy without noise."""
        return word_loss(w, states(self._network, w, batch["x"]), batch["y"])

    def spaces(self, method: str, begin: dict[str, float]) -> dict[str, ng.Space]:
        """The hyperparameters: seven numbers, or a rate for each unit and each hidden-to-hidden weight."""
        units = self._settings.hidden
        shapes = {"input": (units,), "hidden": (units,), "output": (units,), "connect": (4 * units, units)}
        found: dict[str, ng.Space] = {}
        for name in RATES:
            shape = shapes.get(name, ()) if method == "many" else ()
            value = min(max(begin[name], CLIP[0]), CLIP[1])
            found[name] = ng.Logit(torch.full(shape, value, device=self._device), clip=CLIP)
        return {**found, **{name: ng.Softplus(begin[name]) for name in PENALTIES}}

    def _tuner(self, method: str, begin: dict[str, float], rate: float) -> Any:
        one, spaces = self._settings, self.spaces(method, begin)

        def optimizer(h: Any) -> Any:
            return ng.optim.clipped(ng.optim.sgd(rate), one.clip)

        update = ng.WeightUpdate(self.inner_loss, optimizer)
        if method not in TUNED:
            return ng.Fixed(update, hparams=spaces)
        outer_rate = one.many_outer_rate if method == "many" else one.outer_rate
        return ng.OnePass(
            ng.BilevelProblem(update, self.outer_loss),
            hparams=spaces,
            every=one.every,
            method=ng.Implicit(solver=ng.Neumann(num_terms=one.terms, step_size=1.0)),
            outer_optimizer=functools.partial(torch.optim.Adam, lr=outer_rate),
        )

    def _drawn(self) -> Tree:
        """The normal draws of one training batch."""
        rows, units, layers = self._settings.batch_rows, self._settings.hidden, self._network.layers
        shapes = {
            "embedding": (self._network.words,),
            **dict.fromkeys(("input", "hidden", "output"), (rows, units)),
            "connect": (layers, 4 * units, units),
        }
        draws = {name: torch.randn(shape, generator=self._noise, device="cpu") for name, shape in shapes.items()}
        return {name: value.to(self._device) for name, value in draws.items()}

    @torch.no_grad()
    def _losses(self, w: Tree) -> dict[str, float]:
        """Without noise; of training windows as many as validate."""
        train = {name: value[: len(self._valid["x"])] for name, value in self._train.items()}
        return {
            name: self._loss(w, batch)
            for name, batch in (("train", train), ("valid", self._valid), ("test", self._test))
        }

    def _loss(self, w: Tree, batch: Tree) -> float:
        rows = len(batch["x"])
        parts = chunks(rows, self._network.judged_rows)
        whole = [
            self.outer_loss(w, None, {name: value[part] for name, value in batch.items()}) * (part.stop - part.start)
            for part in parts
        ]
        return float(torch.stack(whole).sum() / rows)

    def _windows(self, part: Part, count: int, first: int = 0) -> Tree:
        if count > len(part):
            raise DataError(
                f"{count} windows asked for, limit: {len(part)}, all there are. Remedy: ask for fewer by --set."
            )
        rows = slice(first, first + count)
        return {
            name: torch.tensor(value[rows], dtype=torch.int64, device=self._device)
            for name, value in (("x", part.x), ("y", part.y))
        }


def _taken(whole: Tree, stream: Stream) -> Tree:
    """The stream's next batch."""
    rows = stream.take(1)
    return dict(whole) if rows is None else {name: value[torch.tensor(rows[0])] for name, value in whole.items()}
