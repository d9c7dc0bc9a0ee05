"""Hugging Face's Trainer: the callback tunes as LiveOnePass does, and refuses what it cannot follow."""

import functools
import importlib.util
import itertools
import pathlib

import pytest

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("nestgrad_torch", reason="nestgrad-torch is not installed")
from torch import nn  # noqa: E402

from nestgrad import InvalidInput, Log10, UnsupportedSpec  # noqa: E402
from nestgrad_integrations import StepMismatch  # noqa: E402
from nestgrad_integrations.transformers import OnePassCallback, model_loss  # noqa: E402

_spec = importlib.util.spec_from_file_location("loops", pathlib.Path(__file__).with_name("loops.py"))
loops = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(loops)

SPACES = {"lr": Log10(1e-2), "weight_decay": Log10(1e-3)}


class Model(nn.Module):
    def __init__(self, *, noisy=False):
        super().__init__()
        torch.manual_seed(0)
        self.net = loops.network(torch.float32, noisy=noisy)

    def forward(self, x, labels):
        return {"loss": loops.loss(self.net, None, (x, labels))}


def rows(count):
    torch.manual_seed(count)
    return [{"x": a, "labels": b} for x, y in loops.batches(count, torch.float32) for a, b in zip(x, y, strict=True)]


def collated(items):
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def outer(count=2):
    return [collated(rows(count)[8 * i : 8 * i + 8]) for i in range(count)]


def callback(**options):
    return OnePassCallback(**{"hparams": SPACES, "outer_batches": outer(), "every": 5, **options})


def trainer(folder, *callbacks, model=None, collator=collated, **options):
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
    run = {"max_steps": 20, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant"}
    rates = {"learning_rate": 1e-2, "weight_decay": 1e-3, "max_grad_norm": 0.5}
    args = transformers.TrainingArguments(output_dir=str(folder), **{**quiet, **run, **rates, **options})
    made = transformers.Trainer(
        model=model or Model(), args=args, train_dataset=rows(6), data_collator=collator, callbacks=list(callbacks)
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_the_hyperparameters_move_as_in_a_loop_of_ones_own(tmp_path, clip):
    seen = []

    def recorded(items):
        seen.append(collated(items))
        return seen[-1]

    tuned = callback()
    made = trainer(tmp_path, tuned, collator=recorded, max_grad_norm=clip, max_steps=21)
    made.train()
    model, batches = Model(), itertools.cycle(outer())
    weights, biases = ([p for name, p in model.named_parameters() if kind in name] for kind in ("weight", "bias"))
    groups = [{"params": weights, "weight_decay": 1e-3}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    live = loops.tuner(model, optimizer, hparams=SPACES, inner_loss=model_loss, clip_grad_norm=clip or None)
    for batch in seen[:21]:
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        live.before_step(batch)
        optimizer.step()
        live.after_step(functools.partial(next, batches))
    for name, space in SPACES.items():
        assert float(tuned.values()[name]) == pytest.approx(float(live.values()[name]), rel=1e-4)
        assert float(tuned.values()[name]) != pytest.approx(space.init, rel=1e-2)
    for mine, theirs in zip(model.parameters(), made.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    rate = float(tuned.values()["lr"])
    assert [group["lr"] for group in made.optimizer.param_groups] == [rate, rate]
    assert made.lr_scheduler.get_last_lr() == [rate, rate]
    assert tuned.info.tuned


def test_dropout_and_batch_norm_are_followed(tmp_path):
    tuned = callback(every=1)
    trainer(tmp_path, tuned, model=Model(noisy=True), max_steps=6).train()
    assert tuned.state_dict()["step"] == 6


def test_a_tuner_goes_on_from_its_state(tmp_path):
    first, second = callback(), callback()
    made = trainer(tmp_path, first, max_steps=13)
    made.train()
    second.load_state_dict(first.state_dict())
    again = trainer(tmp_path, second, model=made.model, max_steps=7, learning_rate=float(first.values()["lr"]))
    again.create_optimizer()
    for group in again.optimizer.param_groups:
        group["weight_decay"] = float(first.values()["weight_decay"]) if group["weight_decay"] else 0.0
    again.train()
    assert second.state_dict()["step"] == 20
    assert second.values()["lr"] != first.values()["lr"]


REFUSED = {
    "accumulation": ({"gradient_accumulation_steps": 3}, r"gradient_accumulation_steps=3, limit 1"),
    "schedule": ({"lr_scheduler_type": "linear"}, r"lr_scheduler_type='linear' writes 'lr', .* limit: 'constant'"),
    "half precision": ({"bf16": True}, r"bf16=True, limit: float32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_followed_are_refused_by_name(tmp_path, name):
    options, message = REFUSED[name]
    with pytest.raises(UnsupportedSpec, match=message + r".*Remedy: "):
        trainer(tmp_path, callback(), **options).train()


def test_a_schedule_may_write_what_is_not_tuned(tmp_path):
    tuned = callback(hparams={"weight_decay": Log10(1e-3)})
    trainer(tmp_path, tuned, lr_scheduler_type="cosine").train()
    assert float(tuned.values()["weight_decay"]) != pytest.approx(1e-3, rel=1e-2)


def test_a_schedule_that_calls_itself_constant_and_is_not(tmp_path):
    made = trainer(tmp_path, callback())
    optimizer = made.create_optimizer()
    made.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    with pytest.raises(StepMismatch, match=r"\['lr'\] is 0.009, limit: 0.00999999978, .*Remedy: .*no scheduler"):
        made.train()


def test_a_loss_that_is_not_the_models_own_is_a_mismatch(tmp_path):
    class Doubled(transformers.Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            return 2.0 * model(**inputs)["loss"]

    made = trainer(tmp_path, callback(every=1), max_grad_norm=0.0)
    made.__class__ = Doubled
    with pytest.raises(StepMismatch, match=r"gradient on the batch is not the one .*limit .*Remedy: "):
        made.train()


def test_a_model_that_is_not_called_or_called_by_place(tmp_path):
    class Aside(transformers.Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            return model.forward(**inputs)["loss"]

    class ByPlace(transformers.Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            return model(inputs["x"], inputs["labels"])["loss"]

    made = trainer(tmp_path, callback())
    made.__class__ = Aside
    with pytest.raises(InvalidInput, match=r"the model was called 0 times in training mode .* limit 1 .*Remedy: "):
        made.train()
    made = trainer(tmp_path, callback())
    made.__class__ = ByPlace
    with pytest.raises(InvalidInput, match=r"called with 2 arguments by place, limit 0. Remedy: "):
        made.train()


def test_values_before_training():
    with pytest.raises(InvalidInput, match=r"OnePassCallback.values: training has begun 0 times, limit: 1 .*Remedy: "):
        callback().values()
