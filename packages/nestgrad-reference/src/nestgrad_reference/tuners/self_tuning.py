"""Self-tuning networks by float64 algebra."""

from __future__ import annotations

from typing import Any, Literal

import autograd
import numpy as np

from nestgrad import (
    ENTROPY_OF_UNIT_NORMAL,
    BilevelProblem,
    Event,
    GatedResponse,
    Guard,
    HyperGradient,
    InvalidInput,
    Objective,
    OnePassInfo,
    SelfTuningState,
    Stats,
    Status,
    Watch,
    check_self_tuning,
    map_spaces,
    moves_outer,
    shared_columns,
    softplus_inverse,
    tree,
)
from nestgrad_reference._connected import require_paths
from nestgrad_reference._derivatives import independence_is_no_news
from nestgrad_reference._gates import gated_weights
from nestgrad_reference._responses import init_response, joined, parted
from nestgrad_reference._solvers._common import EPS
from nestgrad_reference._space_ops import OPS
from nestgrad_reference._tree import Vector, check_matching, flatten, xp
from nestgrad_reference.tuners._common import (
    clip,
    idle,
    initial_leaves,
    judged,
    natural_values,
    no_events,
    norm,
    require_optimizer,
)
from nestgrad_reference.tuners._draws import Draws


class SelfTuning:
    """Train gated weights on perturbed hyperparameters and tune these; nestgrad._tuners.self_tuning defines each step.

    optimizer (of the response) and outer_optimizer (of leaves and scales) are functional rules such as
    nestgrad_reference.optim.adam(1e-3).
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        optimizer: Any,
        outer_optimizer: Any,
        response: GatedResponse = GatedResponse(),  # noqa: B008  (frozen)
        objective: Objective = "sampled",
        samples: int | Literal["examples"] = "examples",
        scale: float = 0.5,
        entropy: float | None = 1e-3,
        every: int = 2,
        warmup_steps: int = 0,
        shared: tuple[str, ...] = (),
        guard: Guard | None = None,
        throw: bool = True,
    ) -> None:
        self.inner = check_self_tuning(
            problem,
            hparams,
            response=response,
            objective=objective,
            samples=samples,
            scale=scale,
            entropy=entropy,
            every=every,
            warmup_steps=warmup_steps,
            shared=shared,
            guard=guard,
        )
        require_optimizer("SelfTuning.optimizer", optimizer)
        require_optimizer("SelfTuning.outer_optimizer", outer_optimizer)
        self.problem, self.spaces, self.response = problem, hparams, response
        self.optimizer, self.outer_optimizer = optimizer, outer_optimizer
        self.objective, self.samples, self.scale, self.entropy = objective, samples, scale, entropy
        self.every, self.warmup_steps, self.shared = every, warmup_steps, shared
        self.guard, self.throw, self._watch = guard, throw, Watch()

    def init(self, params: Any, *, key: int) -> SelfTuningState:
        """The state before the first step; key seeds the response and the noise."""
        _, leaves = initial_leaves(self.spaces)
        phi = init_response(self.response, params, leaves, key=key)
        scales = np.full(joined(leaves).size, softplus_inverse(self.scale))
        state: SelfTuningState = {
            "params": phi,
            "opt_state": self.optimizer.init(phi),
            "hparams": leaves,
            "scales": scales,
            "outer_opt_state": self.outer_optimizer.init({"hparams": leaves, "scales": scales}),
            "step": 0,
            "seed": key,
            "buffers": {},
        }
        if self.guard is not None:
            state["events"] = no_events()
        return state

    def step(
        self, state: SelfTuningState, inner_batch: Any, outer_batch: Any, *, noise: Any = None
    ) -> tuple[SelfTuningState, OnePassInfo]:
        """One step of the response, and one of leaves and scales where it is due.

        noise: (for the inner batch, for the outer), each (samples, h) or (rows of the batch, h); None draws it.
        """
        check_matching(state["params"], inner_batch=inner_batch, outer_batch=outer_batch)
        given, outer_given = (None, None) if noise is None else noise
        after: SelfTuningState = {**state, "step": state["step"] + 1}
        loss, slopes = self._fit(state, self._noise(state, 0, inner_batch, given), inner_batch)
        updates, after["opt_state"] = self.optimizer.update(slopes, state["opt_state"], state["params"])
        after["params"] = tree.map(np.add, state["params"], updates)
        tuned, found, event = (
            moves_outer(state["step"], self.every, self.warmup_steps),
            idle(state["hparams"]),
            Event.NONE,
        )
        if tuned:
            if state["step"] < self.warmup_steps + self.every:  # the first
                self._require_connected(state, inner_batch, outer_batch)
            drawn = self._noise(state, 1, outer_batch, outer_given)
            found, by_scales = self._hypergradient(after, drawn, outer_batch, norm(slopes["bias"]))
            event = self._move(found, by_scales, state, after)
        return after, OnePassInfo(
            inner_loss=np.asarray(loss), tuned=tuned, hypergradient=found, hparams=self.values(after), event=event
        )

    def values(self, state: SelfTuningState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return natural_values(self.spaces, state["hparams"])

    def scales(self, state: SelfTuningState) -> Any:
        """The perturbation's deviation of each entry, in the leaves' units, a tree shaped like hparams."""
        return parted(state["hparams"], _softplus(state["scales"]))

    def response_params(self, state: SelfTuningState) -> Any:
        """The weights at the hyperparameters as they are, a tree like params."""
        if self._centred:
            return state["params"]["bias"]
        return gated_weights(self.response, state["params"], joined(state["hparams"]))

    def response_weights(self, state: SelfTuningState) -> Any:
        """φ for `respond` and `hypergradient`, whose codes are the leaves: a centred one's bias is moved back by λ̂."""
        phi = state["params"]
        if not self._centred:
            return phi
        moved = gated_weights(self.response, phi, -joined(state["hparams"]))
        return {**phi, "bias": moved}

    def __repr__(self) -> str:
        return f"SelfTuning({self.response}, objective={self.objective!r}, samples={self.samples!r})"

    @property
    def _centred(self) -> bool:
        return self.objective != "sampled"

    @property
    def _by_rows(self) -> bool:
        return self.samples == "examples"

    def _draws(self) -> Draws:
        return Draws(self.response, self.spaces, self._by_rows)

    @staticmethod
    def _no_codes(state: Any, draws: list[Any]) -> np.ndarray:
        return np.zeros((len(draws), joined(state["hparams"]).size))

    def _noise(self, state: Any, level: int, batch: Any, given: Any) -> np.ndarray:
        """(draws, h): what was given, or the run's own, of the inner level 0 or the outer 1."""
        entries = joined(state["hparams"]).size
        shape = (self._draws().rows(batch) if self._by_rows else int(self.samples), entries)
        if given is None:
            drawn = np.random.default_rng([state["seed"], state["step"], level]).normal(size=shape)
        else:
            drawn = np.asarray(given, np.float64)
        if drawn.shape != shape:
            raise InvalidInput(
                f"SelfTuning.step: noise of shape {drawn.shape} for the {('inner', 'outer')[level]} batch, limit: "
                f"{shape}, draws by hyperparameter entries. Remedy: leave it out, or draw it in this shape."
            )
        if not self._by_rows:
            return drawn
        sizes = [leaf.size for _, leaf in sorted(tree.named_leaves(state["hparams"]).items())]
        alike = np.repeat(shared_columns(state["hparams"], self.shared), sizes)
        return np.where(alike, drawn[0], drawn)

    def _fit(self, state: Any, noise: np.ndarray, batch: Any) -> tuple[float, Any]:
        """The loss that the info reports, and what the optimizer is given, a tree like φ."""
        draws, centre = self._draws(), joined(state["hparams"])
        w, restore = flatten(state["params"])
        lams = centre + _softplus(state["scales"]) * noise
        codes, leaves = lams - centre if self._centred else lams, [parted(state["hparams"], lam) for lam in lams]

        def perturbed(x: Any) -> Any:
            if self.objective == "linearised":
                return draws.linear_mean(self.inner.loss, restore(x), codes, leaves, batch)  # pyright: ignore[reportArgumentType]
            return draws.mean(self.inner.loss, "inner loss", restore(x), codes, leaves, batch)

        def general(x: Any) -> Any:
            still = [state["hparams"]] * (len(lams) if self._by_rows else 1)
            return draws.mean(self.inner.loss, "inner loss", restore(x), self._no_codes(state, still), still, batch)

        with independence_is_no_news():
            if not self._centred:
                loss, slopes = autograd.value_and_grad(perturbed)(w)  # pyright: ignore[reportCallIssue]
                return float(loss), restore(slopes)
            loss, slopes = autograd.value_and_grad(general)(w)  # pyright: ignore[reportCallIssue]
            responding = restore(autograd.grad(perturbed)(w))  # pyright: ignore[reportCallIssue]
        return float(loss), {**responding, "bias": restore(slopes)["bias"]}

    def _hypergradient(
        self, after: Any, noise: np.ndarray, batch: Any, optimality: float
    ) -> tuple[HyperGradient, Vector]:
        """In the leaves, and the derivative in ς with the entropy's."""
        draws, leaves, phi = self._draws(), after["hparams"], after["params"]
        centre, scales = joined(leaves), after["scales"]

        def value(x: Any) -> Any:
            """L_out by what it sees of λ̂ itself, by what the gates are fed of it, and by ς."""
            seen, through, by = (x[k * centre.size : (k + 1) * centre.size] for k in range(3))
            moved = _softplus(by) * noise
            codes = through - centre + moved if self._centred else through + moved
            lams = [parted(leaves, lam) for lam in seen + moved]
            return draws.mean(self.problem.outer_loss, "outer_loss", phi, codes, lams, batch)

        def entropy(by: Any) -> Any:
            return xp.sum(xp.log(_softplus(by)) + ENTROPY_OF_UNIT_NORMAL)

        with independence_is_no_news():
            at = np.concatenate([centre, centre, scales])
            loss, slopes = autograd.value_and_grad(value)(at)  # pyright: ignore[reportCallIssue]
            direct, indirect, by_scales = np.split(slopes, 3)
            if self.entropy is None:
                by_scales = np.zeros_like(by_scales)
            else:
                by_scales = by_scales - self.entropy * autograd.grad(entropy)(scales)  # pyright: ignore[reportCallIssue]
        finite = np.isfinite([loss, *direct, *indirect]).all()
        stats = Stats(
            indirect_norm=float(np.linalg.norm(indirect)),
            params_norm=norm(phi["bias"]),
            inner_optimality=optimality,
            eps=EPS,
        )
        found = HyperGradient(
            total=parted(leaves, direct + indirect),
            direct=parted(leaves, direct),
            indirect=parted(leaves, indirect),
            outer_loss=np.asarray(loss),
            status=Status.TRUNCATED if finite else Status.NONFINITE,
            stats=stats,
        )
        return found, by_scales

    def _move(self, found: HyperGradient, by_scales: Vector, state: Any, after: Any) -> Event:
        """Leaves and scales by the outer optimizer, written into `after`; what the guard did."""
        event, factor = judged(self, found, state, after, failing=self, watch=self._watch)
        if event is Event.SKIPPED:
            return event
        slopes = {"hparams": tree.map(lambda leaf: leaf * factor, found.total), "scales": by_scales * factor}
        old = {"hparams": state["hparams"], "scales": state["scales"]}
        steps, after["outer_opt_state"] = self.outer_optimizer.update(slopes, state["outer_opt_state"], old)
        new = tree.map(np.add, old, steps)
        after["hparams"] = map_spaces(clip, self.spaces, new["hparams"])
        if self.entropy is not None:
            after["scales"] = new["scales"]
        return event

    def _require_connected(self, state: Any, inner_batch: Any, outer_batch: Any) -> None:
        """Raise DisconnectedHyperparameter for a leaf that neither loss depends on but through the gates."""
        draws, (w, restore) = self._draws(), flatten(state["params"])

        def mean(loss: Any, level: str, x: Any, leaves: Any, batch: Any) -> Any:
            still = [leaves] * (draws.rows(batch) if self._by_rows else 1)
            return draws.mean(loss, level, restore(x), self._no_codes(state, still), still, batch)

        def inner(leaves: Any) -> Any:
            return autograd.grad(lambda x: mean(self.inner.loss, "inner loss", x, leaves, inner_batch))(w)  # pyright: ignore[reportCallIssue]

        def outer(leaves: Any) -> Any:
            return mean(self.problem.outer_loss, "outer_loss", w, leaves, outer_batch)

        require_paths([inner, outer], state["hparams"], "the inner residual or the outer loss")


def _softplus(x: Any) -> Any:
    return OPS.softplus(x)
