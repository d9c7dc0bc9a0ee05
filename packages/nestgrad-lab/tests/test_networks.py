"""The LSTM and the ResNet-18: weights, values, and both derivatives, each network tiny."""

import importlib.util

import numpy as np
import pytest

from nestgrad_lab.data import Part
from nestgrad_lab.networks import Lstm, ResNet18
from nestgrad_lab.networks.network import chunks

torch = pytest.importorskip("torch")
pytest.importorskip("nestgrad_torch")

from nestgrad_lab.engines import torch_engine  # noqa: E402
from nestgrad_lab.networks import torch_networks  # noqa: E402

NETWORKS = {"lstm": Lstm(words=20, window=5, hidden=4, layers=2), "resnet-18": ResNet18(side=32, width=2, outputs=3)}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


def rows(network, count=6, seed=0):
    """Random rows for a network."""
    rng = np.random.default_rng(seed)
    if isinstance(network, Lstm):
        return Part(*rng.integers(0, network.words, (2, count, network.window), dtype=np.int32))
    x = rng.normal(size=(count, 3 * network.side**2))
    return Part(x, rng.integers(0, network.outputs, count, dtype=np.int32))


def batch_of(network, **options):
    return torch_engine.as_batch(rows(network, **options), torch.float64)


def weights_of(network, seed=0):
    return {name: torch.tensor(value) for name, value in network.draw("float64", [seed]).items()}


def test_the_lstm_is_that_of_torch_with_the_same_weights():
    network = NETWORKS["lstm"]
    weights, words = weights_of(network), batch_of(network)["x"]
    theirs = torch.nn.LSTM(network.hidden, network.hidden, network.layers, batch_first=True, dtype=torch.float64)
    own = {name.removeprefix("lstm."): value for name, value in weights.items() if name.startswith("lstm.")}
    theirs.load_state_dict(own)
    states, _ = theirs(torch.nn.functional.embedding(words, weights["embedding.weight"]))
    expected = torch.nn.functional.linear(states, weights["decoder.weight"], weights["decoder.bias"])
    found = torch_networks.lstm(network, weights, words)
    assert found.shape == (6, 5, 20)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Block(torch.nn.Module):
    """A basic block as in the paper, of torch's own modules, without running averages."""

    def __init__(self, before, after, stride):
        super().__init__()
        nn = torch.nn
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after, track_running_stats=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after, track_running_stats=False)
        self.downsample = nn.Identity()
        if before != after:
            normal = nn.BatchNorm2d(after, track_running_stats=False)
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), normal)

    def forward(self, x):
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inner + self.downsample(x)).relu()


class ResNet(torch.nn.Module):
    """The same of torch's modules, written out for itself, with torchvision's names."""

    def __init__(self, width, outputs):
        super().__init__()
        nn = torch.nn
        self.conv1, self.bn1 = (
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width, track_running_stats=False),
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(Block(4 * width, 8 * width, 2), Block(8 * width, 8 * width, 1))
        self.fc = nn.Linear(8 * width, outputs)

    def forward(self, x):
        stem = self.maxpool(self.bn1(self.conv1(x)).relu())
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(stem)))).mean((2, 3)))


def test_the_resnet_is_that_of_torchs_modules_with_the_same_weights():
    network = NETWORKS["resnet-18"]
    weights, x = weights_of(network), batch_of(network)["x"]
    theirs = ResNet(network.width, network.outputs).double()
    theirs.load_state_dict(weights)  # every name and every shape
    found = torch_networks.resnet18(network, weights, x)
    assert found.shape == (6, 3)
    torch.testing.assert_close(found, theirs(x.view(-1, 3, 32, 32)), rtol=1e-10, atol=1e-10)


def test_in_full_they_have_the_published_numbers_of_weights():
    """ResNet-18: 11,689,512 with 1,000 classes. LSTM: per layer 4h(2h + 2), embedding and decoder untied."""
    resnet = ResNet18(side=32, width=64, outputs=10).draw("float32", [0])
    assert sum(value.size for value in resnet.values()) == 11_689_512 - (1000 - 10) * 513
    lstm = Lstm(words=1000, window=70, hidden=650, layers=2).draw("float32", [0])
    expected = 2 * 4 * 650 * (2 * 650 + 2) + 1000 * 650 + 1000 * 651
    assert sum(value.size for value in lstm.values()) == expected


def test_weights_are_drawn_as_the_frameworks_draw_them():
    lstm = Lstm(words=300, window=5, hidden=64, layers=2).draw("float32", [0])
    assert lstm["embedding.weight"].std() == pytest.approx(1.0, rel=0.02)
    for name in set(lstm) - {"embedding.weight"}:
        assert np.abs(lstm[name]).max() <= 1 / 8
        assert lstm[name].std() == pytest.approx(1 / 8 / np.sqrt(3), rel=0.15)
    resnet = ResNet18(side=32, width=16, outputs=10).draw("float32", [0])
    assert resnet["layer4.1.conv2.weight"].std() == pytest.approx(np.sqrt(2 / (128 * 9)), rel=0.02)
    assert resnet["layer2.0.downsample.0.weight"].std() == pytest.approx(np.sqrt(2 / 32), rel=0.1)
    assert (resnet["bn1.weight"] == 1).all()
    assert (resnet["layer1.0.bn2.bias"] == 0).all()
    assert np.abs(resnet["fc.weight"]).max() <= 1 / np.sqrt(128)


def test_draws_are_a_function_of_the_seed(network):
    one, again, other = (network.draw("float32", [seed]) for seed in (0, 0, 1))
    assert {value.dtype for value in one.values()} == {np.dtype("float32")}
    for name, value in one.items():
        np.testing.assert_array_equal(value, again[name])
    assert any((value != other[name]).any() for name, value in one.items())


def test_gradients_and_their_derivatives_are_finite_differences(network):
    """In float64, along a random direction: of the loss, and of the gradient's product with another direction.

    The direction is small enough that no kink of a ReLU or of a pooling lies between the two points.
    """
    loss, batch, weights = torch_networks.loss_of(network, "classification"), batch_of(network), weights_of(network)
    draw = torch.Generator().manual_seed(0)
    one, other = (
        {name: torch.randn(value.shape, generator=draw, dtype=value.dtype) for name, value in weights.items()}
        for _ in range(2)
    )

    def dot(left, right):
        return sum((left[name] * right[name]).sum() for name in left)

    def slope(point):
        return torch.func.grad(lambda p: loss(p, None, batch))(point)

    def moved(by):
        return {name: value + by * one[name] for name, value in weights.items()}

    step = 1e-6
    expected = (loss(moved(step), None, batch) - loss(moved(-step), None, batch)) / (2 * step)
    torch.testing.assert_close(dot(slope(weights), one), expected, rtol=1e-5, atol=1e-8)
    product = torch.func.grad(lambda p: dot(slope(p), other))(weights)
    assert all(value.isfinite().all() for value in product.values())
    expected = (dot(slope(moved(step)), other) - dot(slope(moved(-step)), other)) / (2 * step)
    torch.testing.assert_close(dot(product, one), expected, rtol=1e-4, atol=1e-6)


def test_runs_at_once_are_the_runs_alone(network):
    loss, batch = torch_networks.loss_of(network, "classification"), batch_of(network)
    each = [weights_of(network, seed) for seed in range(3)]
    stacked = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    together = torch.func.vmap(torch.func.grad(lambda p: loss(p, None, batch)))(stacked)
    for k, one in enumerate(each):
        alone = torch.func.grad(lambda p: loss(p, None, batch))(one)
        for name, value in alone.items():
            torch.testing.assert_close(together[name][k], value, rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(importlib.util.find_spec("nestgrad_jax") is None, reason="nestgrad_jax is not installed")
def test_backends_agree_on_scores_gradients_and_judgements(network):
    import jax
    import jax.numpy as jnp

    from nestgrad_lab.networks import jax_networks

    part, drawn = rows(network), network.draw("float64", [0])
    weights, batch = weights_of(network), batch_of(network)
    stacked = {name: value[None] for name, value in weights.items()}
    with jax.enable_x64(True):
        theirs = {name: jnp.asarray(value) for name, value in drawn.items()}
        other = {"x": jnp.asarray(part.x), "y": jnp.asarray(part.y)}
        loss = jax_networks.loss_of(network, "classification")
        scores = jax.jit(lambda p: jax_networks.scores(network, p, other["x"]))(theirs)
        slopes = jax.jit(jax.grad(lambda p: loss(p, None, other)))(theirs)
        ahead = {name: value[None] for name, value in theirs.items()}
        right = jax_networks.accuracy(network, ahead, other)
        judged = jax_networks.judged(network, "classification", ahead, other)
    expected = torch_networks.scores(network, weights, batch["x"])
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)
    own = torch.func.grad(lambda p: torch_networks.loss_of(network, "classification")(p, None, batch))(weights)
    for name, value in own.items():
        np.testing.assert_allclose(slopes[name], value, rtol=1e-7, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(right, torch_networks.accuracy(network, stacked, batch))
    np.testing.assert_allclose(judged, torch_networks.judged(network, "classification", stacked, batch), rtol=1e-9)


def test_judging_in_parts_is_the_mean_over_all_rows(monkeypatch):
    """Of the LSTM, whose rows do not see each other, the mean over all at once; right words counted by hand."""
    network = NETWORKS["lstm"]
    batch, weights = batch_of(network, count=7), weights_of(network)
    stacked = {name: value[None] for name, value in weights.items()}
    whole = torch_networks.judged(network, "classification", stacked, batch)
    share = torch_networks.accuracy(network, stacked, batch)
    best = torch_networks.lstm(network, weights, batch["x"]).argmax(-1)
    assert float(share) == pytest.approx((best == batch["y"]).double().mean())
    monkeypatch.setattr("nestgrad_lab.networks.network.JUDGED_NUMBERS", 2 * network.window * network.words)
    assert network.judged_rows == 2
    torch.testing.assert_close(torch_networks.judged(network, "classification", stacked, batch), whole)
    torch.testing.assert_close(torch_networks.accuracy(network, stacked, batch), share)


@pytest.mark.parametrize(("rows_", "most", "lengths"), [(7, 2, [1, 2, 2, 2]), (1000, 500, [500, 500]), (3, None, [3])])
def test_parts_are_as_few_and_as_equal_as_can_be(rows_, most, lengths):
    parts = chunks(rows_, most)
    assert sorted(part.stop - part.start for part in parts) == lengths
    assert np.concatenate([np.arange(rows_)[part] for part in parts]).tolist() == list(range(rows_))
