"""A stack of one's own for running notebooks: free ports, a new home that is removed afterwards; nothing of the environment's databases."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from userhooks.settings import PORT_VARIABLES, Settings
from userhooks.stack.control import down
from userhooks.stack.home import Home

_ELSEWHERE = ("DATABASE_URL", "SEQUIN_URL", "SEQUIN_API_TOKEN", "SEQUIN_DATABASE", "SEQUIN_METRICS_URL")


@dataclass(frozen=True)
class OwnStack:
    """A running stack: the environment of programs that use it, and the port of each part."""

    environment: dict[str, str]
    ports: dict[str, int]


@contextmanager
def own_stack() -> Iterator[OwnStack]:
    """Start a stack; end and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="userhooks-notebooks-") as folder:
        environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
        environment |= {**dict.fromkeys(PORT_VARIABLES.values(), "0"), "USERHOOKS_HOME": str(Path(folder) / "home")}
        settings = Settings.from_env(environment)
        home = Home(settings.home)
        try:
            command = [sys.executable, "-m", "userhooks.cli", "up", "--detach"]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            yield OwnStack(environment, home.ports(settings))
        finally:
            down(home)
            home.remove()
