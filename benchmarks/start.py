"""Start-up times: `import userhooks`, the stack on its second start, and notebook 01 until its first webhook."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from benchmarks.figures import Figure, at_most
from benchmarks.lab import Size, settings
from userhooks.settings import PORT_VARIABLES
from userhooks.stack.home import Home

ROOT = Path(__file__).parents[1]


def run(size: Size) -> Iterator[Figure]:
    imports = [_timed([sys.executable, "-c", "import userhooks"]) for _ in range(5)]
    bare = [_timed([sys.executable, "-c", "pass"]) for _ in range(5)]
    comparison = f"Python alone {min(bare) * 1000:.0f} ms; slowest of five {max(imports):.2f} s"
    yield at_most("import userhooks", sorted(imports)[2], "s", 0.3, None, comparison, digits=2)
    with tempfile.TemporaryDirectory(prefix="userhooks-bench-") as folder:
        variables = {"USERHOOKS_HOME": folder, **dict.fromkeys(PORT_VARIABLES.values(), "0")}
        try:
            first = _timed(_userhooks("up", "--detach"), variables)
            _timed(_userhooks("down"), variables)
            later = []
            for _ in range(3):
                later.append(_timed(_userhooks("up", "--detach"), variables))
                _timed(_userhooks("down"), variables)
            yield at_most("userhooks up, second time", sorted(later)[1], "s", 3, 2, f"first time {first:.1f} s", digits=2)
            yield at_most(
                "notebook 01: Run All to the first webhook", _notebook(variables), "s", 10, None, "including the kernel and the stack"
            )
        finally:
            _timed(_userhooks("down"), variables)
            Home(settings(Path(folder)).home).remove()


def _userhooks(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "userhooks.cli", *arguments]


def _timed(command: list[str], variables: dict[str, str] | None = None) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **(variables or {})}, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _notebook(variables: dict[str, str]) -> float:
    """Return the seconds from the start of the kernel until the first cell that waits for a webhook is done."""
    notebook = nbformat.read(  # type: ignore[no-untyped-call]
        ROOT / "notebooks" / "01_first_webhook.ipynb", as_version=4
    )
    waits = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and "wait_for(" in cell.source)
    done: list[float] = []

    def note(cell: Any, cell_index: int, **_: Any) -> None:
        if cell_index == waits:
            done.append(time.perf_counter())

    client = NotebookClient(
        notebook,
        timeout=60,
        resources={"metadata": {"path": str(ROOT / "notebooks")}},
        extra_arguments=["--log-level=ERROR"],  # hides the kernel's warning that its loopback connection is not encrypted
        on_cell_executed=note,
    )
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    began = time.perf_counter()
    try:
        client.execute()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    return done[0] - began
