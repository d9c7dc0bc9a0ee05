"""What an import costs: seconds in a fresh process, and an exact count for the core, which brings no package along."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.frameworks import require


class Core:
    """`import nestgrad`."""

    def timeraw_import(self) -> str:
        return "import nestgrad"

    def track_foreign_packages(self) -> int:
        """Top-level packages outside the standard library that the import brings: 0."""
        program = (
            "import sys; before = set(sys.modules); import nestgrad; "
            "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
            "print(len(new - set(sys.stdlib_module_names) - {'nestgrad'}))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
        return int(done.stdout)

    track_foreign_packages.unit = "packages"


class Torch:
    """`import nestgrad_torch`, torch included."""

    def setup(self) -> None:
        require("torch")

    def timeraw_import(self) -> str:
        return "import nestgrad_torch"


class Jax:
    """`import nestgrad_jax`, jax included."""

    def setup(self) -> None:
        require("jax")

    def timeraw_import(self) -> str:
        return "import nestgrad_jax"
