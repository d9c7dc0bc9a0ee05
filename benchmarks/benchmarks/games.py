"""What momentum with a complex coefficient costs: a GAN's step with it over the same step with a real one.

    python -m benchmarks.games --backend torch,jax --width 128,512 --batch 256 --rounds 15

Both players, in turn, are networks with two hidden layers of this width. Real momentum is the framework's own:
torch.optim.SGD, optax.sgd with donated buffers. To stay under 1.10.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from benchmarks.frameworks import BACKENDS, require
from benchmarks.measuring import quartiles, ratios, rounds

STEPS = 20
"""Of the game, a reading's call."""


def measured(backend: str, width: int, batch: int, *, count: int = 15) -> list[float]:
    """Complex over real, one ratio a round."""
    require(backend)
    found = rounds(importlib.import_module(f"benchmarks.sides.gan_in_{backend}").steps(width, batch, STEPS), count)
    return ratios(found["complex"], found["real"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print, line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default=",".join(BACKENDS), help="torch, jax or both")
    parser.add_argument("--width", default="128,512", help="of the hidden layers")
    parser.add_argument("--batch", type=int, default=256, help="samples, real and drawn")
    parser.add_argument("--rounds", type=int, default=15, help="readings of each")
    options = parser.parse_args(arguments)
    print(f"{'backend':7} {'width':>5} {'over real':>9} {'quartiles':>13}", flush=True)  # noqa: T201
    for backend in options.backend.split(","):
        for width in map(int, options.width.split(",")):
            low, middle, high = quartiles(measured(backend, width, options.batch, count=options.rounds))
            print(f"{backend:7} {width:5} {middle:9.3f} {low:6.3f}-{high:<6.3f}", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
