"""nbval's own comparison of a cell's outputs, with our sanitize file, without running anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nbformat
from nbval.plugin import IPyNbCell, get_sanitize_patterns, nocolors

_SANITIZE = Path(__file__).parents[2] / "notebooks" / "nbval.cfg"
_SKIPPED = ("metadata", "traceback", "execution_count", "png", "jpeg", "image/png", "image/jpeg", "image/svg+xml")


def differs(reference: nbformat.NotebookNode, came: nbformat.NotebookNode) -> bool:
    """Whether nbval would call what `came` different from the stored `reference`."""
    parent = SimpleNamespace(skip_compare=_SKIPPED, sanitize_patterns=dict(get_sanitize_patterns(_SANITIZE.read_text(encoding="utf-8"))))
    cell = SimpleNamespace(parent=parent, colors=nocolors, format_output_compare=lambda *_: None)
    cell.sanitize = lambda text: IPyNbCell.sanitize(cell, text)
    return not IPyNbCell.compare_outputs(cell, came.outputs, reference.outputs)
