"""Where benchmarks run: a stack in a home of its own on free ports, and how large a run is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from userhooks import Stack
from userhooks.settings import PORT_VARIABLES, Settings
from userhooks.stack.home import Home


@dataclass(frozen=True)
class Size:
    """How long a run may take: the main lines, everything, or the long ones, too."""

    name: str

    def pick(self, quick: int, usual: int, full: int | None = None) -> int:
        """The number for this size."""
        return {"quick": quick, "usual": usual, "full": usual if full is None else full}[self.name]

    @property
    def is_full(self) -> bool:
        return self.name == "full"


def settings(folder: Path, **variables: str) -> Settings:
    """Those of a stack in this folder, whatever the environment says."""
    return Settings.from_env({"USERHOOKS_HOME": str(folder), **dict.fromkeys(PORT_VARIABLES.values(), "0"), **variables})


@contextmanager
def bench_stack(**variables: str) -> Iterator[Stack]:
    """A stack that is gone afterwards with all that it had."""
    with tempfile.TemporaryDirectory(prefix="userhooks-bench-") as folder:
        stack = Stack.start(settings(Path(folder), **variables))
        try:
            yield stack
        finally:
            stack.sequin.close()
            stack.stop()
            Home(Path(folder)).remove()


def pid_of(stack: Stack, part: str) -> int:
    """The process of a part of the stack."""
    return int(stack.status()[part]["pid"])


def forget_peak(pid: int) -> None:
    """Let the peak of the process's memory begin anew (Linux)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pid: int) -> float:
    """The most memory that the process had since then, in MB."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


def cores() -> int:
    return os.cpu_count() or 1
