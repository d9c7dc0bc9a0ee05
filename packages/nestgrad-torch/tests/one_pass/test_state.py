"""The state of a one-pass run: what it carries, saves and leaves alone."""

import copy
import gc
import importlib.util
import io
import pathlib

import pytest
import torch
from torch import nn

_spec = importlib.util.spec_from_file_location("one_pass_runs", pathlib.Path(__file__).with_name("runs.py"))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)
NEVER = runs.NEVER
batch = runs.batch
leaves = runs.leaves
linear_error = runs.linear_error
network = runs.network
noisy_network = runs.noisy_network
run = runs.run
same = runs.same
tuner = runs.tuner


def test_buffers_are_updated_by_training_steps_alone():
    tune, net = tuner(every=1), noisy_network()
    state = tune.init(net)
    inner, outer = batch(), batch()
    after, _ = tune.step(state, inner, outer)
    twin = copy.deepcopy(net)
    twin(inner[0])
    assert same(after["buffers"], dict(twin.named_buffers()))
    assert same(state["buffers"], dict(net.named_buffers()))
    assert int(run(tune, after, 4)[0]["buffers"]["1.num_batches_tracked"]) == 5


@pytest.mark.parametrize("fresh", [False, True], ids=["same tuner", "new tuner"])
def test_a_saved_run_goes_on_bit_for_bit(fresh):
    net = noisy_network()
    tune = tuner()
    state, _ = run(tune, tune.init(net), 5)
    stored = io.BytesIO()
    torch.save(state, stored)
    stored.seek(0)
    read = torch.load(stored, weights_only=True)
    assert same(read, state)
    if fresh:
        later = tuner()
        later.init(copy.deepcopy(net))
    else:
        later = tune
    assert same(run(later, read, 5, seed=7)[0], run(tune, state, 5, seed=7)[0])


def test_a_saved_run_on_tensors_needs_no_init():
    tune = tuner(linear_error)
    state, _ = run(tune, tune.init({"w": torch.randn(3, 1, dtype=torch.float64)}), 3)
    assert same(run(tuner(linear_error), state, 4)[0], run(tune, state, 4)[0])


def test_memory_does_not_grow_with_the_steps():
    tune = tuner(every=1)
    state = run(tune, tune.init(noisy_network()), 3)[0]

    def alive():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    before = alive()
    for _ in range(50):
        state, info = tune.step(state, batch(), batch())
    held = leaves([state, info.inner_loss, info.hparams, info.hypergradient.total, info.hypergradient.outer_loss])
    assert not any(leaf.requires_grad for leaf in held if torch.is_tensor(leaf))
    del info, held
    assert alive() == before


def test_a_leaf_edited_in_place_counts_from_the_next_step():
    tune = tuner(linear_error, every=NEVER)
    state, infos = run(tune, tune.init({"w": torch.randn(3, 1, dtype=torch.float64)}), 1)
    state["hparams"]["lr"].fill_(-5.0)
    assert float(tune.values(state)["lr"]) == pytest.approx(1e-5)
    after, infos = run(tune, state, 1)
    assert float(infos[0].hparams["lr"]) == pytest.approx(1e-5)
    assert (after["params"]["w"] - state["params"]["w"]).abs().max() < 1e-3


def test_reported_values_are_the_users_to_change():
    start = {"w": torch.randn(3, 1, dtype=torch.float64)}
    tune, twin = tuner(linear_error), tuner(linear_error)
    state, infos = run(tune, tune.init(start), 1)
    expected, _ = run(twin, twin.init(start), 1)
    infos[0].hparams["lr"].fill_(7.0)
    infos[0].hparams["momentum"] = "0.6"
    infos[0].hypergradient.total["lr"].fill_(7.0)
    tune.values(state).clear()
    assert same(run(tune, state, 5)[0], run(twin, expected, 5)[0])
    assert not tune.step(state | {"step": 0}, batch(), batch())[1].hypergradient.total["lr"].any()


def test_a_tuner_may_be_read_and_begun_in_inference_mode():
    net, tune, twin = network(), tuner(), tuner()
    with torch.inference_mode():
        state = tune.init(net)
        values = tune.values(state)
    assert not any(leaf.is_inference() for leaf in leaves([state, values]) if torch.is_tensor(leaf))
    assert same(run(tune, state, 4)[0], run(twin, twin.init(net), 4)[0])


def test_a_step_in_no_grad_is_the_same_step():
    tune = tuner(every=1)
    state, data = tune.init(network()), (batch(), batch())
    expected, _ = tune.step(state, *data)
    with torch.no_grad():
        assert same(tune.step(state, *data)[0], expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert same(tune.step(state, *data)[0], expected)


def test_init_with_another_module_starts_another_run():
    tune = tuner()
    run(tune, tune.init(network()), 3)
    wide = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    state = tune.init(wide)
    torch.manual_seed(3)
    for _ in range(3):
        state, info = tune.step(state, batch(dtype=torch.float32), batch(dtype=torch.float32))
    assert info.hparams["lr"].dtype == torch.float32
    twin = tuner()
    expected = twin.init(wide)
    torch.manual_seed(3)
    for _ in range(3):
        expected, _ = twin.step(expected, batch(dtype=torch.float32), batch(dtype=torch.float32))
    assert same(state, expected)


class Averaging(nn.Module):
    """x ↦ x w - a, a being a running mean that forward assigns anew instead of changing it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1, dtype=torch.float64))
        self.register_buffer("average", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        found = x @ self.weight - self.average
        self.average = 0.5 * self.average + 0.5 * found.mean()
        return found


def test_buffers_that_forward_assigns_anew_are_carried():
    net, tune = Averaging(), tuner(every=2)
    state, _ = run(tune, tune.init(net), 1)
    torch.manual_seed(3)
    net_alone = Averaging()
    net_alone(batch()[0])
    assert torch.equal(state["buffers"]["average"], net_alone.average)
    assert not state["buffers"]["average"].requires_grad
    again, _ = run(tune, state, 1)
    assert not torch.equal(again["buffers"]["average"], state["buffers"]["average"])
    assert not net.average.any()


def test_a_loss_that_fails_leaves_the_module_whole():
    net = noisy_network()
    own = {id(t) for t in (*net.parameters(), *net.buffers())}

    def failing(params, hparams, data):
        params(data[0])
        return params(data[0][:, :1])

    tune = tuner(failing)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(tune, tune.init(net), 1)
    assert {id(t) for t in (*net.parameters(), *net.buffers())} == own
