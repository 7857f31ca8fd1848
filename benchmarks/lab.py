"""Environment of the benchmarks: a stack in a separate home on free ports, and the size of a run."""

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
    """Size of a run: `usual`, `quick` for only the main lines, or `full` to include those that take long."""

    name: str

    def pick(self, quick: int, usual: int, full: int | None = None) -> int:
        """Return the number for this size."""
        return {"quick": quick, "usual": usual, "full": usual if full is None else full}[self.name]

    @property
    def is_full(self) -> bool:
        return self.name == "full"


def settings(folder: Path, **variables: str) -> Settings:
    """Return settings for a stack in this folder, independent of the environment."""
    return Settings.from_env({"USERHOOKS_HOME": str(folder), **dict.fromkeys(PORT_VARIABLES.values(), "0"), **variables})


@contextmanager
def bench_stack(**variables: str) -> Iterator[Stack]:
    """Run a stack, and remove it with its home afterward."""
    with tempfile.TemporaryDirectory(prefix="userhooks-bench-") as folder:
        stack = Stack.start(settings(Path(folder), **variables))
        try:
            yield stack
        finally:
            stack.sequin.close()
            stack.stop()
            Home(Path(folder)).remove()


def engine_pid(stack: Stack) -> int:
    """Return the process ID of the stack's engine."""
    pid = stack.status().sequin.pid
    assert pid is not None
    return pid


def forget_peak(pid: int) -> None:
    """Reset the peak of the process's memory (Linux)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pid: int) -> float:
    """Return the process's peak memory since `forget_peak`, in MB; its current memory if the system reports no peak."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


def cores() -> int:
    return os.cpu_count() or 1
