"""One-pass tuning as a callback of Hugging Face's Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import SchedulerType, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nestgrad import InvalidInput, Loss, OnePassInfo, UnsupportedSpec, tree
from nestgrad_integrations._moment import Watching
from nestgrad_integrations._outer_batches import OuterBatches
from nestgrad_integrations.live import LiveOnePass


def model_loss(model: Any, hparams: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """The loss that a model of transformers computes itself from a batch with labels."""
    return model(**batch)["loss"]


class OnePassCallback(TrainerCallback):
    """Tune settings of the Trainer's optimizer while it trains; see LiveOnePass for hparams and options.

    outer_batches: a DataLoader (or any iterable to be begun again) of dicts of the model's arguments, for the outer
    loss alone. inner_loss, outer_loss: loss(model, hparams, batch), the model's own if not given; inner_loss is what
    the Trainer's compute_loss returns, and its batch the dict that the Trainer called the model with. Clipping is taken
    from args.max_grad_norm. The Trainer gives weight decay to some params only; those without it stay without it.

    info: what the last hyper step saw, None before the first. values(): the natural values now. state_dict() and
    load_state_dict(): to be saved beside the Trainer's checkpoints, and loaded before training is resumed.
    """

    def __init__(
        self,
        *,
        hparams: Mapping[str, Any],
        outer_batches: Iterable[Any],
        inner_loss: Loss = model_loss,
        outer_loss: Loss = model_loss,
        **options: Any,
    ) -> None:
        self.info: OnePassInfo | None = None
        self._options = {"hparams": hparams, "inner_loss": inner_loss, "outer_loss": outer_loss, **options}
        self._outer = OuterBatches(outer_batches)
        self._live: LiveOnePass | None = None
        self._saved: Mapping[str, Any] | None = None
        self._inputs: dict[str, Any] | None = None
        self._hook: Any = None

    def values(self) -> dict[str, Any]:
        """The hyperparameters' natural values, as tensors."""
        return self._tuner("values").values()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that the Trainer takes steps that can be followed, and begin."""
        _check(args, self._options["hparams"])
        self._release()
        model: nn.Module = kwargs["model"]
        optimizer = kwargs["optimizer"]
        self._live = LiveOnePass(
            model,
            getattr(optimizer, "optimizer", optimizer),  # accelerate holds the optimizer in one of its own
            clip_grad_norm=args.max_grad_norm or None,
            state=self._saved,
            **self._options,
        )
        self._hook = model.register_forward_pre_hook(Watching(self, "_catch"), with_kwargs=True)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what enters the step, where a hyper step is due."""
        if self._inputs is None:
            raise InvalidInput(
                "OnePassCallback: the model was called 0 times in training mode before the optimizer's step, limit 1 "
                "at least. Remedy: let compute_loss call the Trainer's model."
            )
        self._tuner("on_pre_optimizer_step").before_step(self._inputs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the hyperparameters, where a hyper step is due."""
        try:
            found = self._tuner("on_step_end").after_step(lambda: _on(args.device, next(self._outer)))
        finally:
            self._inputs = None
        if found is not None:
            self.info = found
            _tell(kwargs["lr_scheduler"], found.hparams)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model without hooks."""
        self._release()

    def state_dict(self) -> dict[str, Any]:
        """The tuner's state, a plain tree; empty before training."""
        return {} if self._live is None else self._live.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict gave when training starts."""
        self._saved = state or None

    def _catch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The step's first call of the model in training mode."""
        if self._inputs is not None:
            return
        if args:
            raise InvalidInput(
                f"OnePassCallback: the model was called with {len(args)} arguments by place, limit 0. "
                "Remedy: let compute_loss call model(**inputs)."
            )
        self._inputs = dict(kwargs)

    def _release(self) -> None:
        if self._live is not None:
            self._live.close()
        if self._hook is not None:
            self._hook.remove()

    def _tuner(self, where: str) -> LiveOnePass:
        if self._live is None:
            raise InvalidInput(
                f"OnePassCallback.{where}: training has begun 0 times, limit: 1 at least. Remedy: trainer.train first."
            )
        return self._live


def _on(device: torch.device, batch: Mapping[str, Any]) -> Any:
    return tree.map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, dict(batch))


def _tell(scheduler: Any, values: Mapping[str, Any]) -> None:
    """Let a constant schedule, which sets the rate it began with after each step, hold the tuned one."""
    if "lr" in values:
        scheduler = getattr(scheduler, "scheduler", scheduler)
        scheduler.base_lrs = [float(values["lr"])] * len(scheduler.base_lrs)


def _check(args: TrainingArguments, hparams: Any) -> None:
    """Refuse, by name, what makes the Trainer's steps other than one batch, one gradient, one optimizer's step."""
    if args.gradient_accumulation_steps != 1:
        raise UnsupportedSpec(
            f"OnePassCallback: gradient_accumulation_steps={args.gradient_accumulation_steps}, limit 1, one batch a "
            "step. Remedy: a larger per_device_train_batch_size."
        )
    schedule = SchedulerType(args.lr_scheduler_type)
    if schedule is not SchedulerType.CONSTANT and "lr" in hparams:
        raise UnsupportedSpec(
            f"OnePassCallback: lr_scheduler_type={schedule.value!r} writes 'lr', which is tuned, limit: "
            "'constant'. Remedy: TrainingArguments(lr_scheduler_type='constant'), or leave 'lr' out of hparams."
        )
    for flag in ("fp16", "bf16"):
        if getattr(args, flag):
            raise UnsupportedSpec(
                f"OnePassCallback: {flag}=True, limit: float32. Remedy: TrainingArguments({flag}=False)."
            )
    if max(args.world_size, args.n_gpu) > 1:
        raise UnsupportedSpec(
            f"OnePassCallback: {args.world_size} processes with {args.n_gpu} GPUs, limit 1. "
            "Remedy: train on one device, or use nestgrad_torch.OnePass(process_group=...) in a loop of your own."
        )
