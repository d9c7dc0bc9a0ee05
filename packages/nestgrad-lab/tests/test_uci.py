"""The eight UCI sets: where they are looked for, what is refused, and the paper's split."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from nestgrad_lab.data import load
from nestgrad_lab.data.uci import SETS
from nestgrad_lab.errors import DataError

needs_data = pytest.mark.skipif("NESTGRAD_DATA" not in os.environ, reason="NESTGRAD_DATA is not set")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("nestgrad_lab.data.public.platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "nestgrad" / "uci"


def test_a_set_that_is_nowhere_says_where_to_put_it(lab, cache, monkeypatch):
    monkeypatch.delenv("NESTGRAD_DATA", raising=False)
    before = lab.contents()
    result = lab("tune", "--data", "uci/energy")
    assert result.exit_code == 2
    assert f"put both files into {cache / 'energy'}" in result.stderr
    assert "NESTGRAD_DATA is not set" in result.stderr
    assert lab.contents() == before


def test_other_numbers_are_refused(cache, monkeypatch):
    monkeypatch.delenv("NESTGRAD_DATA", raising=False)
    (cache / "yacht").mkdir(parents=True)
    (cache / "yacht" / "data.csv").write_text("x0,y\n1,2\n3,4\n")
    (cache / "yacht" / "clarke_order.txt").write_text("0\n1\n")
    with pytest.raises(DataError, match="the numbers have SHA-256"):
        load("uci/yacht")


def test_a_broken_file_is_refused(cache, monkeypatch):
    monkeypatch.delenv("NESTGRAD_DATA", raising=False)
    (cache / "yacht").mkdir(parents=True)
    (cache / "yacht" / "data.csv").write_text("x0,y\n1,two\n")
    (cache / "yacht" / "clarke_order.txt").write_text("0\n")
    with pytest.raises(DataError, match="put a whole copy there"):
        load("uci/yacht")


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_each_set_has_the_papers_split_normalised_by_training_and_validation_rows(name):
    data, facts = load(f"uci/{name}"), SETS[name]
    assert (len(data.train), len(data.valid), len(data.test)) == (facts.train, facts.valid, facts.test)
    seen = data.merged
    np.testing.assert_allclose(seen.x.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(seen.y.mean(), 0, atol=1e-9)
    np.testing.assert_allclose(seen.y.std(ddof=1), 1, rtol=1e-9)
    spread = seen.x.std(axis=0, ddof=1)
    assert ((np.abs(spread - 1) < 1e-9) | (spread < 1e-9)).all()


@needs_data
def test_the_cache_comes_before_the_variable(cache, monkeypatch):
    source = Path(os.environ["NESTGRAD_DATA"]) / "uci" / "yacht"
    (cache / "yacht").mkdir(parents=True)
    for name in ("data.csv", "clarke_order.txt"):
        shutil.copyfile(source / name, cache / "yacht" / name)
    monkeypatch.setenv("NESTGRAD_DATA", str(cache / "absent"))
    assert len(load("uci/yacht").test) == 31


@needs_data
def test_tuning_on_a_uci_set_takes_full_batches(lab):
    run = lab.tune("--data", "uci/yacht", "--steps", 20)
    assert run.config["training"]["batch_size"] == 222
    assert run.config["training"]["validation_batch_size"] == 55
