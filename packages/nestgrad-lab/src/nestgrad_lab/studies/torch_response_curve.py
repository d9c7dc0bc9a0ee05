"""Torch's side of response-curve."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.studies import torch_linear as linear
from nestgrad_lab.studies.response_curve_settings import Settings, grid_of, searched
from nestgrad_lab.studies.study import Arrays, Context

LOOKS = 200
"""λ is noted so many times on its way."""


class Curves:
    """The three curves of the study, each trained from the same weights on the same rows."""

    def __init__(self, settings: Settings, context: Context) -> None:
        one = settings
        self._settings, self._context = settings, context
        data, (self._train, self._valid, _) = linear.load_rows(one.data, context.device, one.train_rows, one.valid_rows)
        sizes = (data.train.x.shape[1], data.outputs)
        self._start = linear.initial_weights(sizes, one.init_scale, context.seed, context.device)
        self._problem = ng.BilevelProblem(ng.Minimize(self._inner_loss), self._data_loss)

    def retrained(self) -> Arrays:
        """Weights trained by Adam for each λ of the grid, all at once; for ridge regression also the closed form."""
        grid = grid_of(self._settings)
        where = self._train[0].device
        decays = torch.tensor(np.exp(grid), dtype=torch.float32, device=where)
        start = {name: value.expand(len(grid), *value.shape) for name, value in self._start.items()}

        def loss(weights: linear.Weights, batch: linear.Batch) -> Tensor:
            each = torch.vmap(lambda w, decay: self._inner_loss(w, {"decay": decay}, batch))
            return each(weights, decays).sum()

        weights = linear.trained(
            loss,
            start,
            lambda step: self._train,
            rate=self._settings.retrain_rate,
            steps=self._settings.retrain_steps,
            tick=self._ticks(self._settings.retrain_steps),
        )
        own = [{name: value[k] for name, value in weights.items()} for k in range(len(grid))]
        found = {"at": grid, "loss": self._losses(own)}
        if (self._settings.loss, self._settings.penalty) == ("squared-error", 2):
            exact = [self._ridge(math.exp(point)) for point in grid]
            found["distance"] = np.array([_distance(a, b) for a, b in zip(own, exact, strict=True)])
            found["exact"] = self._losses([self._ridge(math.exp(point)) for point in searched(self._settings)])
        return found

    def learned_globally(self) -> Arrays:
        """Algorithm 2: the response for λ ~ p(λ), then λ through it."""
        one = self._settings
        tuner = self._tuner(
            one.start,
            response=ng.MLPResponse(one.hidden),
            optimizer=ng.optim.adam(one.global_rate),
            outer_rate=one.global_outer_rate,
            distribution=ng.Normal(variance=one.variance, mean=one.center),
            response_steps=one.global_steps,
        )
        state, found = self._run(tuner, one.global_steps, one.global_steps + one.global_outer_steps)
        return {**found, **self._seen(tuner, state, searched(one))}

    def learned_locally(self, variance: float, start: float) -> Arrays:
        """Algorithm 3: the response around λ, and λ, together."""
        one = self._settings
        rules = {"adam": ng.optim.adam, "sgd": ng.optim.sgd}
        tuner = self._tuner(
            start,
            response=ng.LinearResponse(),
            optimizer=rules[one.local_optimizer](one.local_rate),
            outer_rate=one.local_outer_rate,
            distribution=ng.Normal(variance=variance),
        )
        state, found = self._run(tuner, 0, one.local_steps)
        near = found["path"][-1] + np.linspace(-0.75, 0.75, 101)
        return {**found, **self._seen(tuner, state, near)}

    def _tuner(self, start: float, *, outer_rate: float, **options: Any) -> ng.HyperTraining:
        return ng.HyperTraining(
            self._problem,
            hparams={"decay": ng.Log(math.exp(start))},
            outer_optimizer=functools.partial(torch.optim.Adam, lr=outer_rate),
            samples=self._settings.samples,
            **options,
        )

    def _run(self, tuner: ng.HyperTraining, first: int, steps: int) -> tuple[Any, dict[str, Array]]:
        """The state at the end; λ from the step `first` on, where it begins to move."""
        one = self._settings
        state: Any = tuner.init(self._start, key=self._context.seed)
        ticks = self._ticks(steps)
        seen = [(0, tuner.values(state)["decay"])]
        for step in range(steps):
            batch = linear.cut(self._valid, one.outer_rows, step)
            state, _ = tuner.step(state, self._train, batch, noise=self._noise(tuner, state))
            if (taken := step + 1 - first) > 0 and (taken % max(1, (steps - first) // LOOKS) == 0 or step + 1 == steps):
                seen.append((taken, tuner.values(state)["decay"]))
            ticks(step)
        path = torch.stack([decay for _, decay in seen]).log().cpu().numpy().astype(np.float64)
        return state, {"path_step": np.array([step for step, _ in seen], np.int64), "path": path}

    def _noise(self, tuner: ng.HyperTraining, state: Any) -> Tensor | None:
        """The run's own, unless p(λ) is clipped: standard normal draws that never lead beyond the highest λ."""
        one, normal = self._settings, tuner.distribution
        if one.highest >= Settings.highest or not isinstance(normal, ng.Normal) or normal.mean is None:
            return None
        generator = torch.Generator("cpu").manual_seed((self._context.seed * 1_000_003 + state["step"]) % 2**32)
        draws = torch.randn(one.samples, 1, generator=generator, device="cpu")
        return draws.clamp(max=(one.highest - one.center) / one.variance**0.5)

    def _seen(self, tuner: ng.HyperTraining, state: Any, at: Array) -> dict[str, Array]:
        """The validation losses of the response's weights."""
        points = [{"decay": state["hparams"]["decay"].new_tensor(point)} for point in at]
        weights = [ng.respond(tuner.response, state["params"], point) for point in points]
        return {"at": np.array(at), "loss": self._losses(weights)}

    @torch.no_grad()
    def _losses(self, weights: list[linear.Weights]) -> Array:
        """On all validation rows."""
        losses = [self._data_loss(own, None, self._valid) for own in weights]
        return torch.stack(losses).cpu().numpy().astype(np.float64)

    def _data_loss(self, w: Any, h: Any, batch: linear.Batch) -> Tensor:
        error = linear.squared_error(w, h, batch)
        if self._settings.loss == "squared-error":
            return error
        # The mean over rows and classes of -log N(y | output, 0.1²).
        classes = batch[1].shape[1]
        return 50.0 * error / classes + math.log(0.1) + 0.5 * math.log(2.0 * math.pi)

    def _inner_loss(self, w: Any, h: Any, batch: linear.Batch) -> Tensor:
        norm = linear.squared_norm(w)
        return self._data_loss(w, h, batch) + h["decay"] * norm ** (self._settings.penalty / 2)

    def _ridge(self, decay: float) -> linear.Weights:
        """argmin over w of the mean squared distance + decay ‖w‖², in float64."""
        x, y = (one.double() for one in self._train)
        rows = torch.cat([x, x.new_ones(len(x), 1)], 1)
        # The dual form: as many equations as rows.
        dual = torch.linalg.solve(rows @ rows.T + len(x) * decay * torch.eye(len(x), device=x.device), y)
        both = (rows.T @ dual).float()
        return {"w1": both[:-1], "b1": both[-1]}

    def _ticks(self, steps: int) -> Any:
        every = max(1, steps // 100)
        return lambda step: self._context.tick((step + 1) / steps) if step % every == 0 else None


def _distance(own: linear.Weights, exact: linear.Weights) -> float:
    """‖own - exact‖ / ‖exact‖."""
    apart = linear.squared_norm({name: own[name] - exact[name] for name in own})
    return float((apart / linear.squared_norm(exact)).sqrt())
