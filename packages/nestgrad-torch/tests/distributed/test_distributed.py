"""Groups of gloo processes: each takes its part of the batches, and all end with one process's numbers."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

import nestgrad_torch as ng
from nestgrad_torch.distributed import bytes_moved

WORKERS = pathlib.Path(__file__).with_name("workers.py")
KILLED = 7


def launch(what, size, folder):
    """The exit status of each process, once all have ended; a failure shows its output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, str(WORKERS), what, str(rank), str(size), port, str(folder)] for rank in range(size)]
    running = [subprocess.Popen(c, env=environment, stdout=-1, stderr=-2, text=True) for c in commands]
    try:
        told = [process.communicate(timeout=150)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    codes = [process.returncode for process in running]
    assert all(code in {0, KILLED} for code in codes), "\n".join(text[-2000:] for text in told)
    return codes


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder with the state that a run had saved before one of its processes was killed."""
    folder = tmp_path_factory.mktemp("killed")
    assert launch("killed", 2, folder) == [0, KILLED]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_a_group_gives_the_numbers_of_one_process_on_the_joined_batch(size, saved):
    assert launch("agree", size, saved) == [0] * size


def test_a_process_that_was_killed_is_a_named_error(saved):
    assert (saved / "state.pt").exists()


def test_a_process_that_is_silent_is_a_named_error_too(tmp_path):
    assert launch("silent", 2, tmp_path) == [0, KILLED]


def test_bytes_are_those_of_a_ring():
    found = bytes_moved(weights=1000, hparams=3, products=4, processes=8)
    assert found == {"training step": 7007, "hyper step": 42035}
    assert bytes_moved(weights=10, hparams=1, products=0, processes=1) == {"training step": 0, "hyper step": 0}


def test_a_lost_process_is_an_error_of_ours():
    assert issubclass(ng.ProcessLost, ng.NestgradError)
