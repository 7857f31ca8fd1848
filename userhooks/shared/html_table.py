"""The HTML table that a notebook cell shows for one object. Pure."""

from __future__ import annotations

import html
from collections.abc import Mapping


def html_table(caption: str, values: Mapping[str, object]) -> str:
    """Return an HTML table with one row per name and value. Caption, names, and values are escaped."""
    rows = "".join(
        f'<tr><th style="text-align: left">{html.escape(name)}</th><td style="text-align: left">{html.escape(str(value))}</td></tr>'
        for name, value in values.items()
    )
    return f"<table><caption>{html.escape(caption)}</caption>{rows}</table>"
