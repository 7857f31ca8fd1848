"""What an inbox answers to the webhooks that it receives: the setting, and the answer to the n-th request.

Pure; waiting and sending live in ingest.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from userhooks.errors import InvalidInput

FAILURE_STATUS = 500
"""What the requests get that `fail_first` lets fail."""

LONGEST_DELAY = 300.0
"""Seconds; longer than any sender waits."""


@dataclass(frozen=True, slots=True)
class ResponseSetting:
    """The first `fail_first` requests after the setting was made get a 500, all others `status`; each answer waits `delay` seconds."""

    status: int = 200
    delay: float = 0.0
    fail_first: int = 0

    def status_for(self, nth: int) -> int:
        """The status of the answer to the `nth` request (1, 2, …) since the setting was made."""
        return FAILURE_STATUS if nth <= self.fail_first else self.status

    def as_json(self) -> dict[str, Any]:
        return {"status": self.status, "delay": self.delay, "fail_first": self.fail_first}


def parse_setting(payload: object) -> ResponseSetting:
    """Read `{"status"?, "delay"?, "fail_first"?}`, defaults for what is absent; raises InvalidInput naming the field."""
    if not isinstance(payload, Mapping):
        raise InvalidInput("body", "The body is no JSON object.", 'Send for example {"status": 200, "delay": 0, "fail_first": 2}.')
    for key in payload:
        if key not in ("status", "delay", "fail_first"):
            raise InvalidInput(str(key), f"{key!r} is no field of a response setting.", "The fields are status, delay and fail_first.")
    status, delay, fail_first = payload.get("status", 200), payload.get("delay", 0.0), payload.get("fail_first", 0)
    if not _is_whole(status) or not 200 <= status <= 599:
        raise InvalidInput("status", f"status is {status!r}.", "It must be a whole number from 200 to 599.")
    if not (_is_whole(delay) or isinstance(delay, float)) or not 0 <= delay <= LONGEST_DELAY:
        raise InvalidInput("delay", f"delay is {delay!r}.", f"It must be a number of seconds from 0 to {LONGEST_DELAY:g}.")
    if not _is_whole(fail_first) or not 0 <= fail_first <= 1_000_000_000:
        raise InvalidInput("fail_first", f"fail_first is {fail_first!r}.", "It must be a whole number from 0 to 1000000000.")
    return ResponseSetting(status, float(delay), fail_first)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
