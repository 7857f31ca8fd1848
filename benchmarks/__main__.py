"""Run all benchmarks, or the named ones: `python -m benchmarks [quick|full] [names] [--write]`.

Each benchmark is the file with its name in this directory. `--write` updates the tables in this directory's `README.md`, and the plot
`scale.png`.
"""

from __future__ import annotations

import argparse
import platform
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks import backfill, delivery, fairness, generator, ladder, latency, scale, start, unwanted
from benchmarks.figures import Figure, markdown
from benchmarks.lab import Size, cores
from userhooks.stack.embedded_postgres import find_binaries

PARTS = {
    "delivery": delivery.run,
    "latency": latency.run,
    "scale": scale.run,
    "fairness": fairness.run,
    "unwanted": unwanted.run,
    "backfill": backfill.run,
    "generator": generator.run,
    "start": start.run,
    "ladder": ladder.run,
}
QUICK = ("delivery", "latency", "backfill", "start")
README = Path(__file__).with_name("README.md")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stop the stacks, too
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("selection", nargs="*", metavar="quick | full | " + " | ".join(PARTS))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.selection) - {"quick", "full", *PARTS}
    if unknown:
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}")
    size = Size(next((word for word in arguments.selection if word in ("quick", "full")), "usual"))
    names = [word for word in arguments.selection if word in PARTS] or (QUICK if size.name == "quick" else list(PARTS))
    began = time.monotonic()
    title = _title()
    print(title, flush=True)
    figures: list[Figure] = []
    for name in names:
        busy = psutil.cpu_percent(1)
        warning = f" (other processes use {busy:.0f} % of the machine: results are unreliable)" if busy > 10 else ""
        print(f"\n{name}{warning}", flush=True)
        part_figures = []
        for figure in scale.run(size, picture=True) if name == "scale" and arguments.write else PARTS[name](size):
            print(figure.line(), flush=True)
            part_figures.append(figure)
        figures += part_figures
        if arguments.write:
            _write(name, f"{title}{warning}\n\n{markdown(part_figures)}")
    minutes = (time.monotonic() - began) / 60
    missed = [figure.what for figure in figures if figure.met is False]
    print(f"\n{minutes:.1f} minutes; " + (f"not met: {'; '.join(missed)}" if missed else "all requirements met"))


def _write(name: str, text: str) -> None:
    """Replace the text between the markers of a benchmark in the README."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = README.read_text().partition(begin)
    README.write_text(f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}")


def _title() -> str:
    memory = psutil.virtual_memory().total / 1e9
    processor = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {processor}, {cores()} cores, {memory:.0f} GB, "
        f"Python {platform.python_version()}, {_postgres()}, fsync on"
    )


def _postgres() -> str:
    version = subprocess.run([find_binaries().program("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    return f"Postgres {version.split()[2]}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
