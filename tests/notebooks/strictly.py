"""Run the notebooks under nbval's strict comparison, twice in a row on one stack: what a first run leaves must not trouble the second.

    python -m tests.notebooks.strictly

The stack has free ports and a home of its own; it is ended and its home removed afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from userhooks.control import down
from userhooks.home import Home
from userhooks.settings import PORT_VARIABLES, Settings

FOLDER = Path(__file__).parents[2] / "notebooks"
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "no:python", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
COMMAND += ["--nbval-cell-timeout", "120", "--nbval-kernel-startup-timeout", "120", "--nbval-sanitize-with", str(FOLDER / "nbval.cfg")]


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="userhooks-notebooks-") as folder:
        ports = dict.fromkeys(PORT_VARIABLES.values(), "0")
        environment = {**os.environ, **ports, "USERHOOKS_HOME": str(Path(folder) / "home")}
        home = Home(Settings.from_env(environment).home)
        try:
            subprocess.run(
                [sys.executable, "-m", "userhooks.cli", "up", "--detach"], env=environment, check=True, stdout=subprocess.DEVNULL
            )
            for _ in range(2):
                code = subprocess.run([*COMMAND, str(FOLDER)], env=environment, check=False).returncode
                if code:
                    return code
        finally:
            down(home)
            home.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
