"""Text form of LSNs, the positions in Postgres' WAL."""

from __future__ import annotations


def show_lsn(lsn: int) -> str:
    """Return an LSN in Postgres' notation, such as `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
