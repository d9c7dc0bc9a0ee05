"""Torch's side of the study of distilled images."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.errors import OptionError
from nestgrad_lab.studies import torch_draws as draws
from nestgrad_lab.studies import torch_linear as linear
from nestgrad_lab.studies.distillation_settings import METHODS, Settings
from nestgrad_lab.studies.study import Arrays, Context
from nestgrad_lab.studies.torch_linear import Batch, Weights

RUNS_APART = 1000
"""Between the seeds of two studies' first runs."""


class Bench:
    """A study's data and losses."""

    def __init__(self, settings: Settings, context: Context) -> None:
        wrong = [method for method in settings.methods if method not in METHODS]
        if wrong:
            raise OptionError(f"methods {wrong[0]!r}, limit: {', '.join(METHODS)}. Remedy: name some of these.")
        self._settings, self._context = settings, context
        self._rows = draws.Rows(settings.data, context.device)
        self._data = self._rows.found
        if round(len(self._data.features) ** 0.5) ** 2 != len(self._data.features):
            raise OptionError(
                f"data {settings.data!r}: {len(self._data.features)} inputs, limit: square grey images. "
                "Remedy: --set data=mnist."
            )
        self._test = self._rows.tested(settings.test_rows)
        self._targets = torch.eye(self._data.outputs, device=self._test[0].device)
        sizes = (self._test[0].shape[1], self._data.outputs)
        self._start = linear.initial_weights(sizes, 0.0, 0, context.device)

    def real(self) -> Arrays:
        """Models trained on one real image a class."""
        found = [self._one_of_each(self._seed(run)) for run in range(self._settings.real_draws)]
        images = torch.stack(found[: self._settings.runs])
        return {"accuracy": self._fresh(found), "images": _array(images)}

    def of_rows(self, rows: int) -> Arrays:
        """Models trained on the validation rows themselves."""
        batches = [self._validation(rows, run) for run in range(self._settings.runs)]
        return {"accuracy": np.array([self._accuracy_after(batch) for batch in batches])}

    def distilled(self, method: str, rows: int) -> Arrays:
        """Runs of one method."""
        runs = [self._run(method, rows, run) for run in range(self._settings.runs)]
        step = runs[0][1]
        return {
            "accuracy": self._fresh([images for images, *_ in runs]),
            "images": _array(torch.stack([images for images, *_ in runs])),
            "step": step,
            "seen_accuracy": np.stack([seen for *_, seen, _ in runs], 1),
            "seen_loss": np.stack([losses for *_, losses in runs], 1),
        }

    def _run(self, method: str, rows: int, run: int) -> tuple[torch.Tensor, Array, Array, Array]:
        """The images at the end; at some hyper steps, a new model's accuracy and the outer loss."""
        one, valid = self._settings, self._validation(rows, run)
        tuner, inner_steps = self._tuner(method)
        state: Any = tuner.init(self._start)
        steps, seen, losses = [0], self._fresh([tuner.values(state)["images"]]).tolist(), [self._outer(state, valid)]
        every = max(1, one.hyper_steps // one.looks)
        for step in range(1, one.hyper_steps + 1):
            state, told = tuner.run(state, [self._targets] * inner_steps, valid)
            if step % every == 0 or step == one.hyper_steps:
                steps.append(step)
                seen.append(float(self._fresh([told.hparams["images"]])[0]))
                losses.append(float(told.hypergradients[-1].outer_loss))
            self._context.tick((run + step / one.hyper_steps) / one.runs)
        return tuner.values(state)["images"], np.array(steps), np.array(seen), np.array(losses)

    def _tuner(self, method: str) -> tuple[ng.OnePass, int]:
        """The tuner, and how many of its steps end with a hyper step."""
        one = self._settings
        update = ng.WeightUpdate(self._inner, lambda h: ng.optim.sgd(one.rate))
        problem = ng.BilevelProblem(update, outer_loss=linear.cross_entropy)
        options: dict[str, Any] = {
            "hparams": {"images": ng.Real(self._targets.new_zeros(len(self._targets), self._test[0].shape[1]))},
            "outer_optimizer": functools.partial(torch.optim.Adam, lr=one.outer_rate),
        }
        if method == "unrolled":
            unrolled = ng.Unrolled(num_steps=one.unrolled_steps)
            return ng.FullHorizon(problem, method=unrolled, **options), one.unrolled_steps
        solver = {
            "identity": ng.Identity(scale=1.0),
            "neumann": ng.Neumann(num_terms=one.terms, step_size=1.0),
            "cg": ng.CG(rtol=0.0, max_steps=one.terms),
        }[method]
        return ng.OnePass(problem, every=one.inner_steps, method=ng.Implicit(solver=solver), **options), one.inner_steps

    def _inner(self, w: Any, h: Any, targets: Any) -> torch.Tensor:
        return self._regularised(w, (h["images"], targets))

    def _regularised(self, w: Any, batch: Batch) -> torch.Tensor:
        return linear.cross_entropy(w, None, batch) + 0.5 * self._settings.decay * linear.squared_norm(w)

    def _outer(self, state: Any, valid: Batch) -> float:
        return float(linear.cross_entropy(state["params"], None, valid))

    def _fresh(self, several: list[torch.Tensor]) -> Array:
        """Test accuracies of new models, each trained on its images alone."""
        return np.array([self._accuracy_after((images, self._targets)) for images in several])

    def _accuracy_after(self, batch: Batch) -> float:
        one = self._settings
        weights: Weights = linear.trained(
            self._regularised, self._start, lambda step: batch, rate=one.fresh_rate, steps=one.fresh_steps
        )
        return draws.accuracy(linear.outputs_of(weights, self._test[0]), self._test)

    def _validation(self, rows: int, run: int) -> Batch:
        (found,) = self._rows.drawn((rows,), self._seed(run))
        return found

    def _one_of_each(self, seed: int) -> torch.Tensor:
        """The first image of each class among rows in random order."""
        everything = self._data.merged
        order = np.random.default_rng([seed, 1]).permutation(len(everything))
        labels = everything.y[order]
        first = [order[np.argmax(labels == each)] for each in range(self._data.outputs)]
        return torch.tensor(everything.x[first], dtype=torch.float32, device=self._targets.device)

    def _seed(self, run: int) -> int:
        return RUNS_APART * self._context.seed + run


def _array(images: torch.Tensor) -> Array:
    return images.cpu().numpy().astype(np.float32)
