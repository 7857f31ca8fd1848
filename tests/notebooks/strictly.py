"""Run the notebooks under nbval's strict comparison on a used home: each passes, in any order, whatever was cut short before.

    python -m tests.notebooks.strictly                       # all, on two homes side by side
    python -m tests.notebooks.strictly notebooks/05_*.ipynb  # these, on one home

First every notebook is started and its kernel killed in the middle of some cell: a chosen one, or the one that is running when a chosen
time is up. Every cell may be hit, and few runs wait for the slow ones. Then each runs to its end. The halves, the order, cells and times
follow from a seed, which is printed; `--seed` repeats them. Each home has its own stack on free ports, which is removed afterwards.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

from tests.notebooks.kernel import running_kernel
from tests.notebooks.stack import own_stack

FOLDER = Path(__file__).parents[2] / "notebooks"
LESSONS = sorted(FOLDER.glob("*.ipynb"))
SECONDS_TO_A_KILL = 3.0

COMMAND = [sys.executable, "-m", "pytest", "-q", "--disable-plugin-autoload", "-p", "nbval.plugin", "-p", "no:python"]
COMMAND += [
    "-p",
    "no:cacheprovider",
    "--nbval",
    "--nbval-current-env",
    "--nbval-cell-timeout",
    "120",
    "--nbval-kernel-startup-timeout",
    "120",
]
COMMAND += ["--nbval-sanitize-with", str(FOLDER / "nbval.cfg")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("notebooks", nargs="*", type=Path)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    paths = given.notebooks or rng.sample(LESSONS, len(LESSONS))
    homes = [paths] if given.notebooks else [paths[::2], paths[1::2]]
    print(f"Seed {given.seed}", flush=True)
    started = time.monotonic()
    with ThreadPoolExecutor(len(homes)) as pool:
        passed = list(pool.map(pass_on_a_used_home, homes, [random.Random(rng.random()) for _ in homes]))
    print(f"{time.monotonic() - started:.0f} s in all", flush=True)
    return 0 if all(passed) else 1


def pass_on_a_used_home(paths: Sequence[Path], rng: random.Random) -> bool:
    """Start and kill each notebook, then run all of them; whether none differs from what is stored."""
    with own_stack() as stack:
        killed = [f"{path.stem[:2]} in cell {start_and_kill(path, rng, stack.environment)}" for path in rng.sample(paths, len(paths))]
        different = differences(paths, stack.environment)
    print(f"killed {', '.join(killed)}; run {' '.join(path.stem[:2] for path in paths)}: {different or 'all pass'}", flush=True)
    return not different


def differences(paths: Sequence[Path], environment: Mapping[str, str]) -> str:
    """Run the notebooks in this order, each in its own kernel; return pytest's report when one shows something else than what is stored."""
    done = subprocess.run([*COMMAND, *map(str, paths)], env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout if done.returncode else ""


def start_and_kill(path: Path, rng: random.Random, environment: Mapping[str, str]) -> int:
    """Run the notebook, kill the kernel a moment after one of its cells has started, or earlier when a time is up, and return the number of
    the cell that was running.

    The time, which begins after the first cell, is as random as that of an accident: any may come, `SECONDS_TO_A_KILL` in the mean.
    """
    codes = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    last = rng.randrange(1, len(codes))
    moment, time_to_live = rng.uniform(0, 0.5), rng.expovariate(1 / SECONDS_TO_A_KILL)
    with running_kernel(environment, path.parent) as kernel:
        kernel.run(codes[0])  # the start
        end = time.monotonic() + time_to_live
        for number, code in enumerate(codes[1:last], 2):
            if not kernel.ends(code, end):
                kernel.kill()
                return number
        kernel.begin(codes[last])
        time.sleep(moment)  # a kill has no condition to wait for: it comes at any moment
        kernel.kill()
    return last + 1


if __name__ == "__main__":
    sys.exit(main())
