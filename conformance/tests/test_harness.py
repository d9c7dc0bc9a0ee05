"""How a harness is found, and what a backend without everything is spared."""

import pytest

from nestgrad import OPTIONAL, SPECS, InvalidInput, UnknownBackend
from nestgrad_conformance import CHECKS, Harness, check_backend, load_harness
from nestgrad_reference.testing import harness as reference


def test_a_harness_is_found_by_backend_and_by_path(toy):
    assert load_harness("reference") is reference
    assert load_harness("nestgrad_reference.testing:harness") is reference
    assert load_harness("nestgrad_toy:harness") is toy.harness


def test_a_harness_may_be_a_function_of_the_device(toy):
    assert load_harness("nestgrad_toy:on_device") is toy.harness
    assert load_harness("nestgrad_toy:on_device", device="cuda:1") is toy.harness
    assert toy.seen == ["cpu", "cuda:1"]


def test_the_device_option_reaches_the_harness(toy, run_suite, tmp_path):
    (tmp_path / "nestgrad_placed.py").write_text("def harness(device):\n    raise SystemExit(f'asked for {device}')\n")
    assert "asked for cuda:7" in run_suite("nestgrad_placed:harness", "--nestgrad-device=cuda:7").stderr


MISTAKES = [
    ("no_such_module:harness", r"'no_such_module:harness': No module named 'no_such_module'.*Remedy"),
    ("nestgrad_toy:no_such_name", r"'nestgrad_toy:no_such_name': .*no attribute 'no_such_name'.*Remedy"),
    ("nestgrad_toy:number", r"'nestgrad_toy:number': got int, limit: a Harness or a function.*Remedy"),
    ("nestgrad_toy:not_a_harness", r"'nestgrad_toy:not_a_harness': got int, limit: a Harness.*Remedy"),
]


@pytest.mark.parametrize(("name", "words"), MISTAKES)
def test_a_wrong_path_is_refused_with_its_name(name, words, toy):
    with pytest.raises(InvalidInput, match=words):
        load_harness(name)


def test_an_unknown_backend_is_refused_with_the_installed_ones():
    with pytest.raises(UnknownBackend, match=r"'acne' is not installed.*reference"):
        load_harness("acne")


def test_a_device_for_a_harness_that_has_its_own_is_refused():
    with pytest.raises(InvalidInput, match=r"fixed to its own device, asked for 'cuda'.*limit.*Remedy"):
        load_harness("reference", device="cuda")


def test_a_wrong_harness_ends_the_run_in_one_line(run_suite):
    done = run_suite("no_such_module:harness")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "InvalidInput: harness 'no_such_module:harness'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_partial_backend_is_spared_exactly_what_it_lacks(example):
    supported = {name for name, spec in SPECS.items() if example.backend.supports(spec)}
    lacking = (SPECS.keys() - supported) | set(OPTIONAL) | {"adam", "optim", "reversible"}
    assert {"Dense", "CG", "OnePass"} < lacking
    spared = {name for name, check in CHECKS.items() if lacking & set(check.requires)}
    kept = CHECKS.keys() - spared
    assert len(kept) > 24
    results = check_backend(example, max_examples=2)
    assert {result.check for result in results if result.status == "skipped"} == spared
    assert {result.check for result in results if result.status == "passed"} == kept
    for result in results:
        if result.status == "skipped":
            assert result.message in {f"{name} is not supported" for name in lacking}
            assert result.examples == 0


def test_optional_members_left_out_spare_their_checks():
    bare = Harness(
        backend=reference.backend,
        xp=reference.xp,
        from_numpy=reference.from_numpy,
        to_numpy=reference.to_numpy,
        dtypes=("float64",),
    )
    needing = [name for name, check in CHECKS.items() if {"sgd", "adam", "detach"} & set(check.requires)]
    results = check_backend(bare, checks=needing, max_examples=1)
    assert needing
    assert {result.status for result in results} == {"skipped"}
