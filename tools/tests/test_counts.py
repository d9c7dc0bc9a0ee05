"""The exact counts are as recorded: a change of one is a change of cost, to be made on purpose and recorded as well."""

import json

import pytest

from benchmarks import counts, frameworks

RECORD = json.loads(counts.RECORD.read_text(encoding="utf-8"))
CASES = [(backend, entry) for backend in frameworks.BACKENDS for entry in RECORD["counts"][backend]]


@pytest.mark.parametrize(("backend", "entry"), CASES)
def test_a_count_is_as_recorded(backend, entry):
    framework = pytest.importorskip(backend)
    pytest.importorskip(f"nestgrad_{backend}")
    if framework.__version__.partition("+")[0] != RECORD["versions"][backend]:
        pytest.skip(f"recorded with {backend} {RECORD['versions'][backend]}, which may count differently")
    found = counts.Counted(backend).of(entry)
    assert counts.differences({entry: RECORD["counts"][backend][entry]}, {entry: found}) == []


@pytest.mark.parametrize("backend", frameworks.BACKENDS)
def test_every_method_that_the_backend_supports_is_recorded(backend):
    pytest.importorskip(backend)
    module = pytest.importorskip(f"nestgrad_{backend}")
    counted = counts.Counted(backend)
    supported = [name for name in counted.names() if name not in RECORD["counts"][backend]]
    assert all(name == "one-pass, run" and not hasattr(module.OnePass, "run") for name in supported), supported


def test_a_tuner_trains_on_no_gradient_more_than_plain_training():
    found = RECORD["counts"]["torch"]["one-pass, steps"]
    assert found["inner losses"] == 10
    assert found["outer losses"] == 1
