"""The examples: what they reach, and how little differs between a plain loop and a tuned one."""

import difflib
import pathlib
import runpy
import tempfile

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
FRAMEWORKS = {
    "torch": ("nestgrad_torch",),
    "lightning": ("lightning", "nestgrad_torch"),
    "transformers": ("transformers", "accelerate", "nestgrad_torch"),
    "nnx": ("flax", "nestgrad_jax"),
    "equinox": ("equinox", "nestgrad_jax"),
}

pytestmark = [
    # Lightning 2.6.6 asks torch's trees in a way that torch 2.13 has deprecated.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
]


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_tuned_loop_moves_its_hyperparameters_and_ends_below_the_plain_one(name, tmp_path, monkeypatch):
    for framework in FRAMEWORKS[name]:
        pytest.importorskip(framework, reason=f"{framework} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plain = runpy.run_path(str(EXAMPLES / f"{name}_plain.py"))
    tuned = runpy.run_path(str(EXAMPLES / f"{name}_tuned.py"))
    assert float(tuned["before"]) == float(plain["before"])
    assert float(tuned["lr"]) > 1.5 * float(plain["lr"])
    assert float(tuned["after"]) < float(plain["after"]) < float(plain["before"])


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_tuning_changes_at_most_10_lines_of_at_most_40(name):
    plain, tuned = (
        (EXAMPLES / f"{name}_{kind}.py").read_text(encoding="utf-8").splitlines() for kind in ("plain", "tuned")
    )
    changes = list(difflib.ndiff(plain, tuned))
    added, removed = (sum(line.startswith(sign) for line in changes) for sign in "+-")
    assert len(plain) <= 40
    assert len(tuned) <= 40
    assert 0 < added <= 10
    assert removed <= 10
