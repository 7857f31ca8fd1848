"""Start Python programs in a way that they cannot import files from the working directory by accident.

`stack/supervisor.py`, `stack/control.py`, and other modules that start a program use this.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module as a program, without the working directory on its path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def programs() -> Path:
    """Return the folder of this Python's programs, such as `userhooks`."""
    return Path(sys.executable).parent


def environment() -> dict[str, str]:
    """Return this process's environment, with only the absolute entries of `PYTHONPATH`, since others depend on the working directory."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(entry).is_absolute()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entries)}
