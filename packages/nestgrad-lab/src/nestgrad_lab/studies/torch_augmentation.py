"""Torch's side of augmentation."""

from __future__ import annotations

import functools
import itertools
import math
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
from nestgrad_lab.networks import ResNet18, torch_networks
from nestgrad_lab.networks.network import chunks
from nestgrad_lab.studies.augmentation_settings import Settings
from nestgrad_lab.studies.study import Arrays, Context
from nestgrad_lab.studies.torch_augmenter import Tree, augment, convolutions, distance_less_spread, uniform_weights

DROP = 0.2
SHOWN = 8
"""So many images are drawn."""
JUDGED = 500
"""So many images, at most, are judged at once."""


class Augmenting:
    """One run: its rows, its first weights, and what is trained on them."""

    def __init__(self, settings: Settings, context: Context, run: int) -> None:
        one = settings
        self._settings, self._context, self._seed = one, context, [context.seed, run]
        self._device = device_named(context.device)
        data = load(one.data)
        both = data.merged
        asked = one.train_rows + one.valid_rows
        if asked > len(both) or one.test_rows > len(data.test):
            raise DataError(
                f"{asked} and {one.test_rows} rows asked for, limit: {len(both)} and {len(data.test)}, all there are. "
                "Remedy: ask for fewer by --set."
            )
        self._channels = 3 if len(data.features) % 3 == 0 else 1
        self._side = math.isqrt(len(data.features) // self._channels)
        self._classes = data.outputs
        order = np.random.default_rng([*self._seed, 0]).permutation(len(both))
        rows = (order[: one.train_rows], order[one.train_rows : asked])
        self._train, self._valid = (self._batch(both.x[some], both.y[some]) for some in rows)
        self._test = self._batch(data.test.x[: one.test_rows], data.test.y[: one.test_rows])
        self._scores, self._start = self._network()
        self._noise = torch.Generator("cpu").manual_seed(int(np.random.default_rng([*self._seed, 3]).integers(2**31)))

    def learned(self, method: str) -> Arrays:
        """Train and tune; accuracies and losses at the end, and what becomes of a few images."""
        regulariser = self._settings.regulariser
        tuner, state = self._trained(method, self._settings.steps, regulariser)
        u = None if method == "none" else tuner.values(state)
        found: dict[str, Any] = {}
        for part, batch in (("valid", self._valid), ("test", self._test)):
            found |= {f"{part}_{name}": value for name, value in self._judged(state["params"], u, batch).items()}
        few = {name: value[: self._settings.test_rows] for name, value in self._train.items()}
        found["train_accuracy"] = self._judged(state["params"], None, few)["accuracy"]
        return {name: np.asarray(value, np.float64) for name, value in {**found, **self._shown(u)}.items()}

    def looked_at_directly(self) -> Arrays:
        """The direct and the indirect term at one point, and the direct one by central differences."""
        one = self._settings
        regulariser, steps = one.look
        tuner, state = self._trained("neumann", int(steps), regulariser)
        weights, u = state["params"], tuner.values(state)
        inner = {name: value[: one.batch_rows] for name, value in self._train.items()}
        inner["noise"] = self._drawn(len(inner["x"]))
        outer = {name: value[: one.outer_rows] for name, value in self._valid.items()}
        outer["noise"] = self._drawn(one.samples, len(outer["x"]))
        problem = self._problem("neumann", regulariser, one.rate)
        found = ng.hypergradient(
            problem,
            weights,
            u,
            method=self._method("neumann"),
            inner_batch=inner,
            outer_batch=outer,
            opt_state=state["opt_state"],
            throw=False,  # as in the tuner: 3 terms are what the method is, also where more would grow
        )
        total, direct, indirect = (_flat(part) for part in (found.total, found.direct, found.indirect))
        unit = {name: value / direct.norm() for name, value in found.direct.items()}
        step = 1e-2
        with torch.no_grad():
            ends = [
                problem.outer_loss(weights, {name: u[name] + sign * step * unit[name] for name in u}, outer)
                for sign in (1.0, -1.0)
            ]
        slope = (ends[0].double() - ends[1].double()) / (2 * step)
        numbers = {
            "direct": direct.norm(),
            "indirect": indirect.norm(),
            "cosine": functional.cosine_similarity(total, indirect, dim=0),
            "error": (total - indirect).norm() / total.norm(),
            "differences": slope / direct.norm(),
        }
        return {name: np.asarray(float(value)) for name, value in numbers.items()}

    def _trained(self, method: str, steps: int, regulariser: float) -> tuple[Any, Any]:
        """(the last tuner, the state after so many steps): a new tuner wherever a rate changes."""
        one = self._settings
        train = Stream(one.train_rows, one.batch_rows, [*self._seed, 1])
        valid = Stream(one.valid_rows, one.outer_rows, [*self._seed, 2])
        rates = (_rates(one.steps, one.rate, one.drops), _rates(one.steps, one.outer_rate, one.outer_drops))
        tuner, state, before = None, None, None
        outer: Tree = {}
        for step in range(steps):
            now = tuple(next(rate for end, rate in each if step < end) for each in rates)
            if tuner is None or now != before:
                tuner, before = self._tuner(method, regulariser, *now), now
                state = tuner.init(self._start) if state is None else state
            if step % one.every == 0:
                outer = self._rows(self._valid, valid, one.samples if regulariser else 0)
            batch = self._rows(self._train, train, 0 if method == "none" else 1)
            if "noise" in batch:
                batch["noise"] = batch["noise"][0]
            state, _ = tuner.step(state, batch, outer)
            if step % 10 == 0:
                self._context.tick((step + 1) / steps)
        return tuner, state

    def _tuner(self, method: str, regulariser: float, rate: float, outer_rate: float) -> Any:
        one = self._settings
        problem = self._problem(method, regulariser, rate)
        if method == "none":
            return ng.Fixed(problem.inner, hparams={"rate": ng.Log(rate)})  # pyright: ignore[reportArgumentType]
        optimizers = {
            "adam": functools.partial(torch.optim.Adam, lr=outer_rate),
            "sgd": functools.partial(torch.optim.SGD, lr=outer_rate, momentum=0.9, nesterov=True),
        }
        if one.outer_optimizer not in optimizers:
            raise OptionError(
                f"outer_optimizer {one.outer_optimizer!r}, limit: {', '.join(optimizers)}. Remedy: name one of these."
            )
        return ng.OnePass(
            problem,
            hparams={name: ng.Real(value) for name, value in self._augmenter().items()},
            every=one.every,
            method=self._method(method),
            outer_optimizer=optimizers[one.outer_optimizer],
        )

    def _problem(self, method: str, regulariser: float, rate: float) -> ng.BilevelProblem:
        one = self._settings

        def inner_loss(w: Any, u: Any, batch: Tree) -> Tensor:
            images = batch["x"] if method == "none" else augment(u, batch["x"], batch["noise"])
            return functional.cross_entropy(self._scores(w, images), batch["y"])

        def outer_loss(w: Any, u: Any, batch: Tree) -> Tensor:
            loss = functional.cross_entropy(self._scores(w, batch["x"]), batch["y"])
            if not regulariser:
                return loss
            made = torch.stack([augment(u, batch["x"], noise) for noise in batch["noise"]])
            return loss + regulariser * distance_less_spread(batch["x"], made)

        def optimizer(u: Any) -> Any:
            return ng.optim.sgd(rate, momentum=one.momentum, weight_decay=one.decay, nesterov=True)

        return ng.BilevelProblem(ng.WeightUpdate(inner_loss, optimizer), outer_loss)

    def _method(self, method: str) -> ng.Implicit | ng.Unrolled:
        terms = self._settings.terms
        if method == "unrolled":
            return ng.Unrolled(num_steps=terms)
        return ng.Implicit(solver=ng.Neumann(num_terms=1 if method == "identity" else terms, step_size=1.0))

    @torch.no_grad()
    def _judged(self, weights: Tree, u: Tree | None, batch: Tree) -> dict[str, float]:
        """Of the mean prediction; without U, of the plain image's."""
        own: list[Tensor] = []
        mean: list[Tensor] = []
        for some in chunks(len(batch["x"]), JUDGED):
            images = batch["x"][some]
            seen = [self._scores(weights, images).softmax(1)]
            for _ in range(0 if u is None else self._settings.predictions):
                made = augment(u or {}, images, self._drawn(len(images)))
                seen.append(self._scores(weights, made).softmax(1))
            own.append(seen[0])
            mean.append(torch.stack(seen).mean(0))
        right = batch["y"]
        plain, averaged = torch.cat(own), torch.cat(mean)
        return {
            "accuracy": float((averaged.argmax(1) == right).float().mean()),
            "plain_accuracy": float((plain.argmax(1) == right).float().mean()),
            "loss": float(functional.nll_loss(averaged.clamp_min(1e-12).log(), right)),
        }

    @torch.no_grad()
    def _shown(self, u: Tree | None) -> dict[str, Array]:
        """A few images, twice augmented; how far pixels move, and their deviation over samples."""
        images = self._valid["x"][: self._settings.outer_rows]
        made = [images if u is None else augment(u, images, self._drawn(len(images))) for _ in range(10)]
        stacked = torch.stack(made)
        return {
            "images": images[:SHOWN].permute(0, 2, 3, 1).cpu().numpy(),
            "augmented": stacked[:2, :SHOWN].permute(0, 1, 3, 4, 2).cpu().numpy(),
            "moved": (stacked - images).abs().mean().cpu().numpy(),
            "spread": stacked.std(0).mean().cpu().numpy(),
        }

    def _network(self) -> tuple[Any, Tree]:
        """(weights, images) to scores, and the first weights."""
        one = self._settings
        if one.network == "resnet-18":
            network = ResNet18(self._side, one.width, self._classes)
            drawn = {name: self._put(value) for name, value in network.draw("float32", [*self._seed, 4]).items()}
            return functools.partial(torch_networks.resnet18, network), drawn
        if one.network != "convolutions":
            raise OptionError(
                f"network {one.network!r}, limit: convolutions, resnet-18. Remedy: name one of these by --set."
            )
        last = 2 * one.width * (self._side // 8) ** 2
        shapes = {
            "conv1": (one.width, self._channels, 3, 3),
            "conv2": (2 * one.width, one.width, 3, 3),
            "conv3": (2 * one.width, 2 * one.width, 3, 3),
            "last": (self._classes, last),
        }
        return convolutions, self._drawn_weights(shapes, 4, gain=3.0**0.5)

    def _augmenter(self) -> Tree:
        """The first weights of U."""
        filters, seen = self._settings.filters, self._channels + 1
        shapes = {
            "first": (filters, seen, 3, 3),
            "second": (filters, filters, 3, 3),
            "last": (self._channels, filters, 1, 1),
        }
        return self._drawn_weights(shapes, 5)

    def _drawn_weights(self, shapes: dict[str, tuple[int, ...]], part: int, gain: float = 1.0) -> Tree:
        drawn = uniform_weights(shapes, [*self._seed, part], gain)
        return {name: self._put(value) for name, value in drawn.items()}

    def _rows(self, whole: Tree, stream: Stream, samples: int) -> Tree:
        """The stream's next batch, with so many draws of noise, (samples, n, 1, side, side)."""
        taken = stream.take(1)
        batch = whole if taken is None else {name: value[torch.tensor(taken[0])] for name, value in whole.items()}
        return {**batch, "noise": self._drawn(samples, len(batch["x"]))} if samples else dict(batch)

    def _drawn(self, *leading: int) -> Tensor:
        shape = (*leading, 1, self._side, self._side)
        return torch.randn(shape, generator=self._noise, device="cpu").to(self._device)

    def _batch(self, x: Array, y: Array) -> Tree:
        images = self._put(x).view(-1, self._channels, self._side, self._side)
        return {"x": images, "y": torch.tensor(y, dtype=torch.int64, device=self._device)}

    def _put(self, values: Array) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)


def _rates(steps: int, rate: float, drops: tuple[float, ...]) -> list[tuple[float, float]]:
    """(the step before which, the rate)."""
    ends = [*(round(steps * share) for share in drops), math.inf]
    return [(end, rate * DROP**k) for k, end in zip(itertools.count(), ends, strict=False)]


def _flat(parts: Any) -> Tensor:
    return torch.cat([part.flatten() for part in parts.values()])
