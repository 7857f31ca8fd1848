"""Remove what `make clean` cannot delete by name: this directory's home with its database, and lessons that the reader has not changed.

    python -m tests.remove_home

While the stack or JupyterLab is running, it says how to stop them, removes nothing, and exits with code 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from userhooks.lessons.copies import Copies
from userhooks.settings import Settings
from userhooks.stack.control import down, started_at
from userhooks.stack.home import Home


def main() -> int:
    copies = Copies.of(Path.cwd())
    home = Home(Settings.from_env().home)
    if copies.is_in_use:
        print(
            "JupyterLab has your lessons open. Press Ctrl-C in its terminal, then run make clean again. Nothing was removed.",
            file=sys.stderr,
        )
        return 1
    if is_running(home):
        print("The stack is running. Run .venv/bin/userhooks down, then make clean again. Nothing was removed.", file=sys.stderr)
        return 1
    down(home)  # what a killed supervisor left behind
    home.remove()
    if own := copies.readers_own():
        print(f"Kept {copies.folder}, because these files are yours: {', '.join(own)}")
    else:
        copies.remove()
    return 0


def is_running(home: Home) -> bool:
    state = home.running()
    return state is not None and started_at(state["supervisor"]["pid"]) == state["supervisor"]["started"]


if __name__ == "__main__":
    sys.exit(main())
