"""Run the notebooks under nbval's strict comparison on a used home: each passes there again, in any order, whatever was cut short before.

    python -m tests.notebooks.strictly                       # all: the short course twice in a row, then the others in random order
    python -m tests.notebooks.strictly notebooks/05_*.ipynb  # these, twice in a row

Before the second half of the runs, every notebook is begun and its kernel killed in the middle of some cell: one that is chosen, or the one
that is running when a time is up that is chosen, too. Every cell may be hit, and few runs wait for the costly ones. In the end one notebook
is run with one stored line changed, and must fail in just that cell. Order, cells, times and line are those of a seed, which is printed;
`--seed` repeats them. The stack has free ports and a home of its own; it is ended and its home removed afterwards.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree  # what it reads, pytest wrote
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat

from tests.notebooks.kernel import running_kernel
from tests.notebooks.mutations import changed, fact_cells
from tests.notebooks.stack import own_stack

FOLDER = Path(__file__).parents[2] / "notebooks"
SHORT_COURSE = 4
"""Lessons 01 to 04 stand by themselves."""

SECONDS_TO_A_KILL = 3.0

COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "no:python", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
COMMAND += ["--nbval-cell-timeout", "120", "--nbval-kernel-startup-timeout", "120", "--nbval-sanitize-with", str(FOLDER / "nbval.cfg")]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments.add_argument("notebooks", nargs="*", type=Path)
    given = arguments.parse_args()
    chance = random.Random(given.seed)
    paths = sorted(FOLDER.glob("*.ipynb"))
    twice, once = (given.notebooks, []) if given.notebooks else (paths[:SHORT_COURSE], paths[SHORT_COURSE:])
    chance.shuffle(once)
    print(f"Seed {given.seed}: {numbers(twice)}, all begun and killed, {numbers([*twice, *once])}", flush=True)
    began = time.monotonic()
    with own_stack() as stack:
        if not pass_all(twice, stack.environment):
            return 1
        for path in chance.sample([*twice, *once], len(twice) + len(once)):
            print(f"{path.stem[:2]} killed in cell {begin_and_kill(path, chance, stack.environment)}", flush=True)
        if not pass_all([*twice, *once], stack.environment):
            return 1
        path = chance.choice([*twice, *once])
        failed = failed_cells_when_one_is_changed(path, chance, stack.environment)
    print(f"{path.stem} with one line changed: {failed}. {time.monotonic() - began:.0f} s in all", flush=True)
    return 0 if failed == "fails there and nowhere else" else 1


def numbers(paths: Sequence[Path]) -> str:
    return " ".join(path.stem[:2] for path in paths)


def pass_all(paths: Sequence[Path], environment: Mapping[str, str]) -> bool:
    """Run the notebooks in this order, each in a kernel of its own, and compare what they show with what is stored."""
    return subprocess.run([*COMMAND, *map(str, paths)], env=environment, check=False).returncode == 0


def begin_and_kill(path: Path, chance: random.Random, environment: Mapping[str, str]) -> int:
    """Run the notebook, kill the kernel a moment after one of its cells has begun, or earlier when a time is up, and return the number of
    the cell that was running.

    The time, which begins after the first cell, is as random as that of an accident: any may come, `SECONDS_TO_A_KILL` in the mean.
    """
    codes = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    last = chance.randrange(1, len(codes))
    moment, time_to_live = chance.uniform(0, 0.5), chance.expovariate(1 / SECONDS_TO_A_KILL)
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


def failed_cells_when_one_is_changed(path: Path, chance: random.Random, environment: Mapping[str, str]) -> str:
    """Run a copy of the notebook with one stored line changed, and say which cells the comparison finds different."""
    notebook = nbformat.read(path, as_version=4)
    wrong = chance.choice(fact_cells(notebook))
    notebook.cells[wrong] = changed(notebook.cells[wrong], chance)
    with tempfile.TemporaryDirectory(prefix="userhooks-changed-") as folder:
        for beside in ("conftest.py", "alerts.yaml"):
            shutil.copy(FOLDER / beside, folder)
        nbformat.write(notebook, Path(folder) / path.name)
        report = Path(folder) / "report.xml"
        command = [*COMMAND, "-c", "/dev/null", "--rootdir", folder, "--junitxml", str(report), str(Path(folder) / path.name)]
        subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL)
        failed = _failures(report)
    number = sum(cell.cell_type == "code" for cell in notebook.cells[:wrong])
    return "fails there and nowhere else" if failed == [number] else f"cell {number} was changed, different are {failed}"


def _failures(report: Path) -> Sequence[int]:
    """The numbers of the code cells, from 0, that differ."""
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - pytest wrote it
    return [number for number, case in enumerate(cases) if case.find("failure") is not None]


if __name__ == "__main__":
    sys.exit(main())
