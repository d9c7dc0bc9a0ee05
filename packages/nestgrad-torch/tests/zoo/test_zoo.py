"""Every module gives the hypergradient that central differences of first derivatives give, or an error with a name."""

import importlib.util
import pathlib

import pytest
import torch

import nestgrad_torch as ng

_spec = importlib.util.spec_from_file_location("zoo_modules", pathlib.Path(__file__).with_name("modules.py"))
zoo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(zoo)

STEP, TERMS, RATE = 1e-5, 4, 0.05


def problem(loss):
    def inner(params, hparams, batch):
        return loss(params) * hparams["scale"] + torch.exp(hparams["decay"]) * sum(
            (p**2).sum() for p in params.values()
        )

    def outer(params, hparams, batch):
        return 0.5 * sum(((p - 0.1) ** 2).sum() for p in params.values())

    return ng.BilevelProblem(inner=ng.Minimize(inner), outer_loss=outer)


def hparams():
    return {"decay": torch.tensor(-2.0, dtype=torch.float64), "scale": torch.tensor(1.3, dtype=torch.float64)}


def by_differences(module, loss, seed):
    """-Bᵀp with p = a Σ_{j<k} (I - a J)ʲ v, J and B by differences of the module's own gradient."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    start = torch.cat([p.detach().reshape(-1) for _, p in named])
    state = {name: b.clone() for name, b in module.named_buffers()}

    def gradient(w, values):
        with torch.no_grad():
            for (_, p), part in zip(named, w.split([p.numel() for _, p in named]), strict=True):
                p.copy_(part.view(p.shape))
            for name, buffer in module.named_buffers():
                buffer.copy_(state[name])
        torch.manual_seed(seed)
        total = loss(module) * values["scale"] + values["decay"].exp() * sum((p**2).sum() for _, p in named)
        grads = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, (_, p) in zip(grads, named, strict=True)]
        )

    def slope(along):
        ahead, behind = (gradient(*along(sign * STEP)) for sign in (1.0, -1.0))
        return (ahead - behind) / (2 * STEP)

    values = hparams()
    columns = [slope(lambda s, e=e: (start + s * e, values)) for e in torch.eye(len(start), dtype=torch.float64)]
    J = torch.stack(columns, 1)
    B = {k: slope(lambda s, k=k: (start, {**values, k: values[k] + s})) for k in values}
    gradient(start, values)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(state[name])
    term = start - 0.1
    p = torch.zeros_like(term)
    for _ in range(TERMS):
        p, term = p + RATE * term, term - RATE * J.T @ term
    return {k: -column @ p for k, column in B.items()}


@pytest.mark.parametrize("name", zoo.RIGHT)
def test_the_hypergradient_is_right(name):
    torch.manual_seed(0)
    module, loss = zoo.RIGHT[name]()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    expected = by_differences(module, loss, seed=3)
    method = ng.Implicit(solver=ng.Neumann(num_terms=TERMS, step_size=RATE))
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    found = ng.hypergradient(problem(loss), module, hparams(), method=method, throw=False)  # a few terms may grow
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    for key, value in expected.items():
        size = max(abs(float(x)) for x in expected.values())
        assert abs(float(found.total[key] - value)) < 1e-6 * size, key


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", zoo.REFUSED)
def test_what_cannot_be_right_is_refused_by_name(name):
    build, kind, words = zoo.REFUSED[name]
    torch.manual_seed(0)
    module, loss = build()
    method = ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=RATE))
    for call in (
        lambda: ng.hypergradient(problem(loss), module, hparams(), method=method),
        lambda: ng.check(problem(loss), module, hparams()),
    ):
        with pytest.raises(getattr(ng, kind), match=r"(?s)limit.*Remedy: ") as caught:
            call()
        assert words in str(caught.value)


@pytest.mark.parametrize("name", zoo.MARGINS)
def test_losses_without_a_second_derivative_are_refused_by_name(name):
    torch.manual_seed(0)
    module, x = torch.nn.Linear(3, 2).double(), zoo.data(6, 3)
    method = ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=RATE))
    with pytest.raises(ng.DoubleBackwardUnsupported, match=f"{name} has 1 derivative, limit.*Remedy: "):
        ng.hypergradient(problem(lambda model: zoo.MARGINS[name](model(x))), module, hparams(), method=method)


def test_a_custom_backward_without_a_second_derivative_is_found_by_the_preflight():
    module, x = zoo.WithFunction(zoo.CubedConstant.apply).double(), zoo.data(6, 3)
    values = {**hparams(), "decay": torch.tensor(-9.0, dtype=torch.float64)}
    with pytest.warns(ng.WrongDerivative, match=r"the inner residual, in params: derivative .*limit.*Remedy: "):
        ng.check(problem(lambda model: model(x).sum()), module, values)


def test_a_custom_backward_that_is_no_derivative_is_found_by_the_preflight():
    module, loss = zoo.RIGHT["tanh"]()

    def spoilt(params, hparams, batch):
        return loss(params) + zoo.CubedWrong.apply(hparams["scale"]) * sum((p**2).sum() for p in params.values())

    wrong = ng.BilevelProblem(inner=ng.Minimize(spoilt), outer_loss=problem(loss).outer_loss)
    with pytest.warns(ng.WrongDerivative, match=r"scale: derivative .*limit.*Remedy: "):
        ng.check(wrong, module, {"scale": hparams()["scale"]})


def test_compiled_functions_inside_a_loss_are_named():
    class Compiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # noqa: ARG004
            return x**2

        @staticmethod
        def backward(ctx, grad):  # noqa: ARG004
            message = "torch.compile with aot_autograd does not currently support double backward"
            raise RuntimeError(message)

    method = ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=RATE))
    with pytest.raises(ng.DoubleBackwardUnsupported, match=r"torch.compile.*Remedy: "):
        ng.hypergradient(
            problem(lambda model: Compiled.apply(model["weight"]).sum()),
            torch.nn.Linear(2, 1).double(),
            hparams(),
            method=method,
        )


def test_the_tuner_names_them_too():
    torch.manual_seed(0)
    module, loss = zoo.REFUSED["hardsigmoid"][0]()
    update = ng.WeightUpdate(problem(loss).inner.loss, lambda h: ng.optim.sgd(0.1))
    tuner = ng.OnePass(
        ng.BilevelProblem(inner=update, outer_loss=problem(loss).outer_loss),
        hparams={"decay": ng.Real(-2.0), "scale": ng.Real(1.3)},
        every=1,
        method=ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=1.0)),
        outer_optimizer=torch.optim.SGD,
    )
    with pytest.raises(ng.DoubleBackwardUnsupported, match="layer '1': hardsigmoid"):
        tuner.step(tuner.init(module), None, None)


def test_the_users_own_choice_of_attention_kernels_is_put_back():
    torch.manual_seed(0)
    module, loss = zoo.RIGHT["scaled dot product attention"]()
    torch.backends.cuda.enable_flash_sdp(True)
    method = ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=RATE))
    ng.hypergradient(problem(loss), module, hparams(), method=method)
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("name", ["unrolled", "one pass", "darts"])
def test_checkpointed_layers_are_refused_where_params_are_not_the_modules_own(name):
    torch.manual_seed(0)
    module, loss = zoo.RIGHT["checkpointed"]()
    inner, outer = problem(loss).inner, problem(loss).outer_loss
    update = ng.WeightUpdate(inner.loss, lambda h: ng.optim.sgd(0.1))
    spaces = {"decay": ng.Real(-2.0), "scale": ng.Real(1.3)}
    method = ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=1.0))
    tuner = ng.OnePass(
        ng.BilevelProblem(inner=update, outer_loss=outer),
        hparams=spaces,
        every=2,
        method=method,
        outer_optimizer=torch.optim.SGD,
    )
    stepped = ng.BilevelProblem(inner=update, outer_loss=outer)
    calls = {
        "unrolled": lambda: ng.hypergradient(stepped, module, hparams(), method=ng.Unrolled(num_steps=2)),
        "one pass": lambda: tuner.step(tuner.init(module), None, None),
        "darts": lambda: ng.hypergradient(problem(loss), module, hparams(), method=ng.DARTS(step_size=0.1)),
    }
    with pytest.raises(ng.UnsupportedModule, match=r"layer 'first' runs again .*limit: 0 .*Remedy: "):
        calls[name]()
