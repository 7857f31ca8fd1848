"""LSNs, positions in Postgres' WAL, as text. Pure."""

from __future__ import annotations


def show_lsn(lsn: int) -> str:
    """Return an LSN as Postgres writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
