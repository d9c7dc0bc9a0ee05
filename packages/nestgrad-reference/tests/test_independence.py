"""The reference stands alone: no framework is imported, and no other backend."""

import subprocess
import sys

OTHERS = {"torch", "jax", "optax", "nestgrad_torch", "nestgrad_jax", "nestgrad_lab", "nestgrad_conformance"}


def test_importing_the_reference_imports_no_framework():
    code = "import sys, nestgrad_reference; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "nestgrad_reference" in imported
    assert not imported & OTHERS
