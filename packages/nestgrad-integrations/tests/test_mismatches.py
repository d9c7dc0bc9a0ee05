"""A step that is not the one which would be differentiated is an error that says so, with its number and a remedy."""

import importlib.util
import pathlib
import re

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("nestgrad_torch", reason="nestgrad-torch is not installed")
from nestgrad import Log10  # noqa: E402
from nestgrad_integrations import StepMismatch, _taken  # noqa: E402

_spec = importlib.util.spec_from_file_location("loops", pathlib.Path(__file__).with_name("loops.py"))
loops = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(loops)

NUMBERS = r"largest difference ([\d.e+-]*\d).*limit ([\d.e+-]*\d)"


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


def mismatch(take, dtype, *, noisy=False, make=loops.sgd, **options):
    """The message of the error that a loop's step ends with; the numbers in it are a difference above its limit."""
    model = loops.network(dtype, noisy=noisy)
    optimizer = make(model)
    live = loops.tuner(model, optimizer, every=2, **options)
    batches = loops.batches(4, dtype)
    loops.step(model, optimizer, live, batches[0], batches[1], clip=options.get("clip_grad_norm"))
    optimizer.zero_grad()
    before = dict(live.values())
    with pytest.raises(StepMismatch) as caught:
        take(model, optimizer, live, batches[2:])
    message = str(caught.value)
    found = re.search(NUMBERS, message)
    assert found, message
    assert float(found[1]) > float(found[2]), message
    assert "Remedy: " in message
    assert all(torch.equal(before[name], value) for name, value in live.values().items())
    return message


def test_another_batch(dtype):
    def take(model, optimizer, live, batches):
        loops.loss(model, None, batches[0]).backward()
        live.before_step(batches[1])
        optimizer.step()
        live.after_step(batches[1])

    assert "inner_loss's gradient on the batch is not the one" in mismatch(take, dtype)


def test_clipping_that_was_not_told(dtype):
    def early(model, optimizer, live, batches):
        loops.step(model, optimizer, live, *batches, clip=1e-3)

    def late(model, optimizer, live, batches):
        loops.step(model, optimizer, live, *batches, clip=1e-3, clip_late=True)

    assert "clip_grad_norm if gradients are clipped" in mismatch(early, dtype)
    assert "pass clip_grad_norm" in mismatch(late, dtype)


def test_clipping_that_was_told_and_not_done_or_at_another_norm(dtype):
    def without(model, optimizer, live, batches):
        loops.step(model, optimizer, live, *batches)

    def longer(model, optimizer, live, batches):
        loops.step(model, optimizer, live, *batches, clip=1e-2)

    assert "moved '0.weight' to other weights" in mismatch(without, dtype, clip_grad_norm=1e-3)
    assert "inner_loss's gradient" in mismatch(longer, dtype, clip_grad_norm=1e-3)


def test_accumulated_and_scaled_gradients(dtype):
    def accumulated(model, optimizer, live, batches):
        for batch in batches:
            loops.loss(model, None, batch).backward()
        live.before_step(batches[1])
        optimizer.step()
        live.after_step(batches[1])

    def scaled(model, optimizer, live, batches):
        (1024.0 * loops.loss(model, None, batches[0])).backward()
        live.before_step(batches[0])
        optimizer.step()
        live.after_step(batches[1])

    assert "gradient accumulation" in mismatch(accumulated, dtype)
    assert "loss scaling" in mismatch(scaled, dtype)


def test_a_pass_in_bfloat16():
    def take(model, optimizer, live, batches):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loops.loss(model, None, batches[0])
        loss.backward()
        live.before_step(batches[0])
        optimizer.step()
        live.after_step(batches[1])

    assert "autocast" in mismatch(take, torch.float32)


def test_a_closure_that_takes_another_gradient(dtype):
    def take(model, optimizer, live, batches):
        loops.loss(model, None, batches[0]).backward()
        live.before_step(batches[0])

        def closure():
            optimizer.zero_grad()
            loss = loops.loss(model, None, batches[1])
            loss.backward()
            return loss

        optimizer.step(closure)
        live.after_step(batches[1])

    assert "closure" in mismatch(take, dtype)


def test_weights_or_settings_changed_beside_the_step(dtype):
    def weights(model, optimizer, live, batches):
        loops.loss(model, None, batches[0]).backward()
        live.before_step(batches[0])
        optimizer.step()
        with torch.no_grad():
            model[2].bias.mul_(0.99)
        live.after_step(batches[1])

    def settings(model, optimizer, live, batches):
        loops.loss(model, None, batches[0]).backward()
        live.before_step(batches[0])
        optimizer.param_groups[0]["momentum"] = 0.6
        optimizer.step()
        live.after_step(batches[1])

    assert "moved '2.bias' to other weights" in mismatch(weights, dtype)
    assert "call before_step right before optimizer.step()" in mismatch(settings, dtype)


def test_random_numbers_drawn_before_the_module_is_called(dtype):
    def take(model, optimizer, live, batches):
        optimizer.zero_grad()
        live.before_forward()
        torch.rand(3)
        loops.loss(model, None, batches[0]).backward()
        live.before_step(batches[0])
        optimizer.step()
        live.after_step(batches[1])

    assert "draw random numbers inside the module only" in mismatch(take, dtype, noisy=True)


def test_buffers_that_another_pass_has_changed(dtype):
    def take(model, optimizer, live, batches):
        loops.loss(model, None, batches[0]).backward()
        with torch.no_grad():
            drawn = torch.get_rng_state()
            model(batches[1][0])
            torch.set_rng_state(drawn)
        live.before_step(batches[0])
        optimizer.step()
        live.after_step(batches[1])

    assert "buffer '1.running_mean' is not as one pass" in mismatch(take, dtype, noisy=True)


@pytest.mark.parametrize("due", [False, True], ids=["between hyper steps", "at one"])
def test_a_scheduler_that_writes_a_tuned_value(due):
    model = loops.network()
    optimizer = loops.sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
    live = loops.tuner(model, optimizer, every=2 if due else 5)
    first, second = loops.batches(2)
    loops.step(model, optimizer, live, first, first)
    scheduler.step()
    with pytest.raises(StepMismatch, match=r"param_groups\[0\]\['lr'\] is 0.009, limit: 0.01.*Remedy: .*no scheduler"):
        loops.step(model, optimizer, live, second, second)


def test_a_space_that_starts_elsewhere_and_groups_that_differ():
    model = loops.network()
    with pytest.raises(StepMismatch, match=r"\['lr'\] is 0.01, limit: 0.02.*Remedy: start the space"):
        loops.tuner(model, loops.sgd(model), hparams={"lr": Log10(2e-2)})
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}]
    with pytest.raises(StepMismatch, match=r"param_groups\[1\]\['lr'\] is 0.5, limit: 0.01.*one for all groups"):
        loops.tuner(model, torch.optim.SGD(groups, lr=1e-2), hparams={"lr": Log10(1e-2)})


def test_a_gradient_down_to_rounding_is_no_mismatch():
    x, y = torch.randn(64, 3), torch.randn(64, 1)
    wide = torch.cat([x, torch.ones(64, 1)], 1).double()
    best = torch.linalg.lstsq(wide, y.double()).solution.float()
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(best[:3].T)
        model.bias.copy_(best[3])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    live = loops.tuner(model, optimizer, hparams={"lr": Log10(1e-2)}, every=1)
    loops.loss(model, None, (x, y)).backward()
    told = model.weight.grad.clone()
    optimizer.zero_grad()
    loops.loss(model, None, (x.flip(0), y.flip(0))).backward()  # the same sum in another order
    gap, size = float((model.weight.grad - told).abs().max()), float(told.abs().max())
    assert gap > 10.0 * _taken.LIMITS[torch.float32] * size
    live.before_step((x, y))
    optimizer.step()
    assert live.after_step((x, y + 0.1)).tuned


def test_the_weights_are_compared_though_the_tuner_took_a_step_of_its_own(dtype, monkeypatch):
    def take(model, optimizer, live, batches):
        monkeypatch.delattr(_taken.Followed, "step")
        loops.step(model, optimizer, live, *batches, clip=1e-3)

    assert "to other weights than its formula does" in mismatch(take, dtype)


def test_after_a_mismatch_the_loop_may_go_on():
    model = loops.network()
    optimizer = loops.sgd(model)
    live = loops.tuner(model, optimizer, every=1)
    first, second = loops.batches(2)
    with pytest.raises(StepMismatch):
        loops.step(model, optimizer, live, first, second, clip=1e-3)
    assert loops.step(model, optimizer, live, first, second).tuned
