"""Batches and params spread over a mesh of 8 virtual devices give the numbers of one device."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
LIMITS = {"float64": 1e-10, "float32": 1e-5}
_SCRIPT = pathlib.Path(__file__).with_name("sharded.py")


def run(*arguments):
    # Small programs, many of them: what is gained by compiling them well is lost many times over.
    flags = "--xla_force_host_platform_device_count=8 --xla_llvm_disable_expensive_passes=true"
    ended = subprocess.run(
        [sys.executable, str(_SCRIPT), *arguments],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)


@pytest.mark.parametrize("dtype", LIMITS)
def test_a_mesh_gives_the_numbers_of_one_device(dtype):
    for found in run(dtype, "Auto").values():
        for part, distance in found["distances"].items():
            assert distance <= LIMITS[dtype], part
        first, *_, last = found["compilations"][3:]
        assert last == first, "a step compiled again after its first hyper step"


def test_explicit_axes_serve_for_data_and_are_refused_by_name_for_params():
    found = run("float64", "Explicit")
    assert max(found["replicated"]["distances"].values()) <= LIMITS["float64"]
    assert "mesh axis of type Explicit" in found["cut"]["error"]
    assert "Remedy: " in found["cut"]["error"]


def test_five_hundred_steps_on_a_mesh_repeat_bit_for_bit():
    assert run("float32", "Auto", "steps") == {"same bits": True, "replicas alike": True}
