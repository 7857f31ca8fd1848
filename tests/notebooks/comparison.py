"""nbval's own comparison of a cell's outputs, with our sanitize file, without running anything."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import nbformat
from nbval.plugin import IPyNbCell, get_sanitize_patterns, nocolors

_SANITIZE = Path(__file__).parents[2] / "notebooks" / "nbval.cfg"
_SKIPPED = ("metadata", "traceback", "execution_count", "png", "jpeg", "image/png", "image/jpeg", "image/svg+xml")


def sanitized(text: str) -> str:
    """Return an output as it is compared, with a placeholder for whatever differs from run to run."""
    return str(IPyNbCell.sanitize(SimpleNamespace(parent=SimpleNamespace(sanitize_patterns=_patterns())), text))


def differs(reference: nbformat.NotebookNode, came: nbformat.NotebookNode) -> bool:
    """Whether nbval would call what `came` different from the stored `reference`."""
    parent = SimpleNamespace(skip_compare=_SKIPPED, sanitize_patterns=_patterns())
    cell = SimpleNamespace(parent=parent, colors=nocolors, format_output_compare=lambda *_: None)
    cell.sanitize = lambda text: IPyNbCell.sanitize(cell, text)
    return not IPyNbCell.compare_outputs(cell, came.outputs, reference.outputs)


@cache
def _patterns() -> dict[str, str]:
    return dict(get_sanitize_patterns(_SANITIZE.read_text(encoding="utf-8")))
