"""Ctrl-C leaves a folder that says so and holds what was measured."""

import signal
import subprocess
import sys


def start(lab, *arguments):
    command = [sys.executable, "-u", "-m", "nestgrad_lab", *arguments]
    return subprocess.Popen(command, cwd=lab.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_ctrl_c_leaves_an_interrupted_run_with_its_measurements(lab):
    with start(lab, "tune", "--steps", "100000000", "--hidden", "8", "--out", "out") as process:
        for line in process.stdout:
            if line.startswith("step "):
                break
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Interrupted at step" in output
    assert "Traceback" not in output
    run = lab.read("out")
    rows = run.metrics["step"]
    assert run.status["state"] == run.summary["state"] == "interrupted"
    assert len(rows) == run.summary["hyper_steps"] >= 1
    assert run.tuned["step"] == rows[-1]
    assert {path.name for path in run.path.iterdir()} == {
        "config.toml", "metrics.csv", "picture.png", "status.json", "summary.json", "tuned.toml", "weights.safetensors",
    }  # fmt: skip
