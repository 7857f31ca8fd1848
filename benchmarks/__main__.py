"""All benchmarks, or those that are named: `python -m benchmarks [quick|full] [names] [--write]`.

Each part is the file of its name beside this one. With `--write` the tables of these parts, and the plot of the users, go into `README.md`
here.
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that stacks end with the run
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="quick | full | " + " | ".join(PARTS))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.words) - {"quick", "full", *PARTS}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    size = Size(next((word for word in arguments.words if word in ("quick", "full")), "usual"))
    names = [word for word in arguments.words if word in PARTS] or (QUICK if size.name == "quick" else list(PARTS))
    began = time.monotonic()
    title = _title()
    print(title, flush=True)
    figures: list[Figure] = []
    for name in names:
        idle = psutil.cpu_percent(1)
        disturbed = f" (others use {idle:.0f} % of the machine: not to be trusted)" if idle > 10 else ""
        print(f"\n{name}{disturbed}", flush=True)
        of_part = []
        for figure in scale.run(size, picture=True) if name == "scale" and arguments.write else PARTS[name](size):
            print(figure.line(), flush=True)
            of_part.append(figure)
        figures += of_part
        if arguments.write:
            _write(name, f"{title}{disturbed}\n\n{markdown(of_part)}")
    minutes = (time.monotonic() - began) / 60
    missed = [figure.what for figure in figures if figure.met is False]
    print(f"\n{minutes:.1f} minutes; " + (f"not met: {'; '.join(missed)}" if missed else "all that is required is met"))


def _write(name: str, text: str) -> None:
    """Replace what stands between the marks of a part."""
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
    said = subprocess.run([find_binaries().program("postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    return f"Postgres {said.split()[2]}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
