"""Run the full torture tests in turn: `python -m tests.torture [PART …] [--seed N]`; the exit code is 1 if a part found a fault."""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from tests.torture.crash_loop import crash_loop
from tests.torture.dead_endpoints import dead_endpoints
from tests.torture.full_disk import full_disk
from tests.torture.lab import Outcome
from tests.torture.outage import outage
from tests.torture.slow_endpoints import slow_endpoints
from tests.torture.soak import soak

PARTS: dict[str, Callable[[int], Outcome]] = {
    "crash-loop": lambda seed: crash_loop(cycles=100, seed=seed),
    "dead-endpoints": lambda seed: dead_endpoints(sinks=10_000, dead=500, rate=200.0, seconds=30.0, seed=seed),
    "slow-endpoints": lambda seed: slow_endpoints(rate=200.0, seconds=30.0, seed=seed),
    "outage": lambda seed: outage(rows=360_000, rate=10_000.0, seed=seed),
    "full-disk": lambda seed: full_disk(rows=40_000, pages=400, seed=seed),
    "soak": lambda seed: soak(seconds=600.0, rate=2000.0, users=100, failing=5, seed=seed),
}


def main() -> None:
    """Run the named parts, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one or more of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="repeat the random choices of an earlier run")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}, seed {arguments.seed}", flush=True)
    outcomes = []
    for name in arguments.parts or PARTS:
        outcomes.append(PARTS[name](arguments.seed))
        print(f"\n{outcomes[-1]}", flush=True)
    if any(outcome.faults for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
