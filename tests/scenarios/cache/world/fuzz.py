"""Take many steps of the stateful test, and print what was done: `doit fuzz --steps 5000 --seed 1`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from servers.hub import Hub
from servers.objects import Objects

from scenarios.cache.world.model import Broken, Figures
from scenarios.cache.world.steps import explore

LENGTH = 40  # steps of a world
SHARE = 400  # steps of a seed: of many worlds of one seed, hypothesis makes later ones much like the first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument(
        "--seed", type=int, default=1, help="the first of the seeds; the same seed takes the same steps"
    )
    options = parser.parse_args()
    began, figures, code = time.monotonic(), Figures(), 0
    seed = options.seed
    with Hub() as hub, Objects() as objects:
        try:
            while figures.steps < options.steps:
                explore(hub, objects, figures, steps=SHARE, length=LENGTH, seed=seed, shrink=True)
                seed += 1
        except Broken as broken:
            print(f"seed {seed}: {broken}")
            code = 1
    print(f"seeds {options.seed} to {seed}: {figures}; {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
