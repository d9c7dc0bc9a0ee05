"""OnePassClassifier and OnePassRegressor: a network that tunes its own optimizer while it is fitted."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, Self, cast

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from nestgrad_lab.data.dataset import Array, Task
from nestgrad_lab.engines import CARRIES, Carry
from nestgrad_lab.errors import DataError, OptionError
from nestgrad_lab.estimators.rows import Scale, split
from nestgrad_lab.estimators.training import Options, train
from nestgrad_lab.hyperparameters import HYPERPARAMETERS, require_start
from nestgrad_lab.models import predict

COUNTS = ("hidden", "max_iter", "every", "lookback")


class _OnePass(BaseEstimator):
    """What both have in common: one hidden ReLU layer, and SGD with momentum whose three settings are tuned."""

    def __init__(
        self,
        *,
        hidden: int = 50,
        max_iter: int = 500,
        every: int = 10,
        lookback: int = 5,
        batch_size: int | None = 64,
        validation_fraction: float = 0.2,
        random_state: Any = None,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        carry: Carry = "weights",
        backend: str | None = None,
    ) -> None:
        """hidden: units. max_iter: training steps. random_state: of the split, the weights and the batches.

        every, lookback: training steps a hyper step, and terms of its Neumann series. batch_size: training rows a step,
        at most all there are; None for all. validation_fraction: share of the rows held out, which the hypergradient is
        of and which never train. learning_rate, momentum, weight_decay: where tuning starts. carry: "weights", or
        "weights_and_state" for a hypergradient that knows the momentum buffer's memory. backend: "torch", "jax", or
        None for the first installed.
        """
        self.hidden = hidden
        self.max_iter = max_iter
        self.every = every
        self.lookback = lookback
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.carry: Carry = carry
        self.backend = backend

    def _train(self, task: Task, x: Array, y: Array, outputs: int) -> None:
        """Fit normalised y, shape (n, outputs) or (n,) class numbers, and keep what fit leaves behind."""
        self._check()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._inputs = Scale.of(x, f"{type(self).__name__}.fit: X")
        strata = y if task == "classification" else np.zeros(len(y))
        rows = split(self._inputs.normalised(x), y, strata, float(self.validation_fraction), seed)
        found = train(task, rows, outputs, self._options(seed))
        self.weights_, self.hparams_, self.history_ = found.weights, found.values, found.history
        self.n_iter_ = int(self.max_iter)

    def _outputs(self, X: Any) -> Array:
        """What the network gives for raw rows, (n, outputs)."""
        check_is_fitted(self)
        x: Any = validate_data(self, X, reset=False, dtype=np.float64)
        return predict(self.weights_, self._inputs.normalised(x))

    def _options(self, seed: int) -> Options:
        return Options(
            hidden=int(self.hidden),
            steps=int(self.max_iter),
            every=int(self.every),
            lookback=int(self.lookback),
            batch_size=None if self.batch_size is None else int(self.batch_size),
            start={name: float(getattr(self, name)) for name in HYPERPARAMETERS},
            carry=self.carry,
            backend=self.backend,
            seed=seed,
        )

    def _check(self) -> None:
        """Raise OptionError, or OutOfSpace for a start, naming the parameter."""
        for name in [*COUNTS, *([] if self.batch_size is None else ["batch_size"])]:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
                self._refuse(name, "an int of at least 1", "pass one")
        fraction = self.validation_fraction
        if not isinstance(fraction, Real) or not 0.0 < fraction < 1.0:
            self._refuse("validation_fraction", "a number strictly between 0 and 1", "pass 0.2")
        for name, known in HYPERPARAMETERS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                self._refuse(name, "a finite number", "leave it out")
            require_start(known.space, float(value), f"{type(self).__name__}.{name}")
        if self.carry not in CARRIES:
            self._refuse("carry", " or ".join(map(repr, CARRIES)), "pass one of these")
        if self.max_iter < self.every:
            self._refuse(
                "max_iter", f"at least every = {self.every}, the first hyper step", "train longer, or tune more often"
            )

    def _refuse(self, name: str, limit: str, remedy: str) -> None:
        raise OptionError(
            f"{type(self).__name__}.{name}: got {getattr(self, name)!r}, limit: {limit}. Remedy: {remedy}."
        )


class OnePassClassifier(ClassifierMixin, _OnePass):
    """Classification by a network that tunes its learning rate, momentum and weight decay in the one run of fit.

    One hidden ReLU layer, mean cross entropy, float32; inputs are standardised inside. After fit: classes_, the labels
    in the order of predict_proba's columns; hparams_, the tuned values by name; history_, by name an array of one
    number a hyper step ("step", "inner_loss", "outer_loss", each hyperparameter); n_iter_, the training steps;
    weights_; n_features_in_. fit raises OptionError or DataError, both ValueErrors, before training, and
    TrainingDiverged during it.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train once on rows X (n, d) and labels y (n,); the estimator itself."""
        x, labels = cast("tuple[Array, Array]", validate_data(self, X, y, dtype=np.float64))
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:  # noqa: PLR2004
            raise DataError(
                f"OnePassClassifier.fit: y holds 1 class only, {self.classes_[0]!r}, limit: at least 2. "
                "Remedy: give rows of another."
            )
        self._train("classification", x, numbers.astype(np.int32), len(self.classes_))
        return self

    def predict(self, X: Any) -> Array:
        """The likeliest label of each row, (n,)."""
        chosen = self._outputs(X).argmax(axis=1)
        return self.classes_[chosen]

    def predict_proba(self, X: Any) -> Array:
        """The softmax of the outputs, (n, classes)."""
        outputs = self._outputs(X)
        shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)


class OnePassRegressor(RegressorMixin, MultiOutputMixin, _OnePass):
    """Regression by a network that tunes its learning rate, momentum and weight decay in the one run of fit.

    One hidden ReLU layer, mean squared error, float32; inputs and targets are standardised inside. After fit: hparams_,
    history_, n_iter_, weights_ and n_features_in_, as OnePassClassifier's; the same errors.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train once on rows X (n, d) and targets y, (n,) or (n, targets); the estimator itself."""
        found: Any = validate_data(self, X, y, dtype=np.float64, y_numeric=True, multi_output=True)
        x, targets = found[0], np.asarray(found[1], np.float64)
        columns = targets.reshape(len(targets), -1)
        self._targets, self._flat = Scale.of(columns, "OnePassRegressor.fit: y"), targets.ndim == 1
        self._train("regression", x, self._targets.normalised(columns), columns.shape[1])
        return self

    def predict(self, X: Any) -> Array:
        """Targets in their own units, of the shape that y had."""
        outputs = self._outputs(X)
        found = self._targets.natural(outputs)
        return found[:, 0] if self._flat else found
