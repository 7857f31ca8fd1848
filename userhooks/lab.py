"""What `userhooks lab` does while the stack runs: it updates the reader's copies, writes the start page, and runs JupyterLab."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from userhooks.lessons.copies import Copies
from userhooks.lessons.start_page import RunningPart, lesson_facts, start_page
from userhooks.shared import python_command

if TYPE_CHECKING:
    from userhooks.stack.stack import Stack
    from userhooks.stack.status import StackStatus

_CONFIG = Path(__file__).resolve().parent / "jupyter"
"""Configuration of JupyterLab: it opens the start page, logs only warnings, and does not ask about news."""
_GENERATED_TOKEN = re.compile(r"[0-9a-f]{48}")
_STOP_SECONDS = 20.0
"""Seconds that JupyterLab may take to stop its kernels and itself."""


def run(stack: Stack, options: Sequence[str], *, browser: bool) -> int:
    """Run JupyterLab on the reader's copies until it exits or a signal arrives, and return its exit code.

    `options` are options for JupyterLab. Raises ConfigurationError if the copies cannot be written.
    """
    copies = Copies.of(Path.cwd())
    _prepare(copies, stack.status())
    browser = browser and _has_display()
    flags = [*([] if browser else ["--no-browser"]), *(["--allow-root"] if os.geteuid() == 0 else [])]
    command = [*python_command.command("jupyterlab"), f"--ServerApp.root_dir={copies.folder}", *flags, *options]
    print("Press Ctrl-C to stop JupyterLab and everything that runs for it.", flush=True)
    # JupyterLab does not get Ctrl-C itself, because it would ask whether to stop. It inherits the mark, in case it
    # outlives this process.
    with (
        copies.in_use() as mark,
        subprocess.Popen(command, env=_environment(stack.settings.home), process_group=0, pass_fds=[mark]) as jupyter,
    ):
        try:
            _print_link(jupyter, "If your browser does not open, open this link:" if browser else "Open this link:")
            return jupyter.wait()
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not keep the stack from being stopped
            jupyter.terminate()
            with suppress(subprocess.TimeoutExpired):
                jupyter.wait(_STOP_SECONDS)
            jupyter.kill()


def _print_link(jupyter: subprocess.Popen[bytes], words: str) -> None:
    """Wait until JupyterLab runs, and print `words` and the link to the start page below everything else."""
    import httpx
    from jupyter_core.paths import jupyter_runtime_dir

    file = Path(jupyter_runtime_dir()) / f"jpserver-{jupyter.pid}.json"
    while jupyter.poll() is None:
        with suppress(FileNotFoundError, ValueError):  # not written yet, or not completely
            server = json.loads(file.read_text(encoding="utf-8"))
            with suppress(httpx.HTTPError, httpx.InvalidURL):  # when it answers, it has printed its own messages
                httpx.get(f"{server['url']}api", trust_env=False, timeout=10)
            # Like JupyterLab, show only a token that JupyterLab generated, not one that somebody set.
            query = f"?token={server['token']}" if _GENERATED_TOKEN.fullmatch(server["token"]) else ""
            print(f"\n{words}\n\n    {server['url']}lab/tree/index.md{query}\n", flush=True)
            return
        time.sleep(0.1)


def _environment(home: Path) -> dict[str, str]:
    """Return the environment of JupyterLab, its kernels, and its terminals.

    It makes them use this home in every working directory, find `userhooks`, and keep the tab layout of this home separate from others.
    """
    return {
        **os.environ,
        "USERHOOKS_HOME": str(home),
        "JUPYTER_CONFIG_PATH": os.pathsep.join([str(_CONFIG), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "jupyter" / "workspaces"),
        "PATH": os.pathsep.join([str(python_command.programs()), os.environ.get("PATH", os.defpath)]),
    }


def _prepare(copies: Copies, status: StackStatus) -> None:
    """Bring the copies up to date, write the start page, and print what the reader should know."""
    report = copies.copy()
    lessons = [lesson_facts(name, json.loads(data)) for name, data in copies.fresh.items() if name.endswith(".ipynb")]
    kept = copies.write_index(start_page(lessons, _parts(status), _program()))
    print(f"Your lessons are in {copies.folder}")
    for names, what in ((report.replaced, "brought up to date"), (report.removed, "no longer part of the course, removed")):
        if names:
            print(f"  {what}, because you had not changed them: {', '.join(names)}")
    if report.outdated:
        words = " ".join(name[:2] if name.endswith(".ipynb") else name for name in report.outdated)
        print(f"  Newer versions exist of files that you changed. Get them, and keep yours beside them: {_program()} lessons reset {words}")
    if kept:
        print(f"  The start page is new; the one that you changed is now {kept}.")


def _program() -> str:
    """Return the command that starts userhooks in any terminal: its path, because a login shell may have replaced our PATH."""
    program = python_command.programs() / "userhooks"
    return shlex.quote(str(program)) if program.exists() else "userhooks"


def _parts(status: StackStatus) -> list[RunningPart]:
    from userhooks.stack.stack import page_links, without_password

    links = page_links(status)
    sequin = "the local engine: reads changes and sends webhooks" if status.sequin.embedded else "your own Sequin server: sends webhooks"
    return [
        RunningPart("inspector", "receives webhooks and shows them", status.inspector.url, links.get("inspector")),
        RunningPart("console", sequin, status.sequin.url, links.get("sequin")),
        RunningPart("server", "subscribes users, as your app would", status.server.url),
        RunningPart("Postgres", "the app's database", without_password(status.postgres.url or "")),
    ]


def _has_display() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"))
