"""The time of day as the Management API writes it."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now(*, micro: bool = False) -> str:
    """Return the current UTC time in whole seconds.

    `micro` adds six fractional digits, always zero, as recorded from Sequin for some fields.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
