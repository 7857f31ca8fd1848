"""Deliveries as a real Sequin makes them: an attempt may be two requests, retries wait for the next look, later messages of a row pass."""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import orjson

from tests.real_like.manners import Manners
from userhooks.engine.delivery.pending_message import PendingMessage
from userhooks.engine.delivery.sink_delivery import Attempt, SinkDelivery
from userhooks.engine.postgres.pg_types import INTEGERS

_REPEATED_AT_ONCE = {408, 429, 500, 502, 503, 504}
_NULL_IN_READS = re.compile(
    r"bpchar|money|inet|cidr|macaddr8?|point|line|lseg|box|path|polygon|circle|bit|varbit|pg_lsn|int4range|int8range|numrange|tsrange"
    r"|tstzrange|daterange|int4multirange|int8multirange|nummultirange|tsmultirange|tstzmultirange|datemultirange"
)
"""Types whose values are null in a backfill's rows (recorded)."""
_INFINITE = {"infinity": "inf", "Infinity": "inf", "-infinity": "-inf", "-Infinity": "-inf"}


class RealLikeDelivery(SinkDelivery):
    """What one sink still owes, and when it is sent."""

    manners: ClassVar[Manners]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._second: dict[int, list[PendingMessage]] = {}
        """batches whose next request is the second one of the same attempt, by identity"""
        super().__init__(*args, **kwargs)

    def answered(self, attempt: Attempt, status: int | None, error: str, retry_after: float | None) -> None:
        failed = status is None or status >= 300
        is_second = self._second.pop(id(attempt.messages), None) is not None
        if failed and not is_second and (status is None or status in _REPEATED_AT_ONCE) and attempt.epoch == self._epoch:
            self._flying.discard(attempt)
            self._flying_bytes -= attempt.size
            self._second[id(attempt.messages)] = attempt.messages
            self._retry(attempt.messages, self._pause(status, retry_after))
            self._loop.call_later(self._pause(status, retry_after) + 0.001, self._offer)
            return
        super().answered(attempt, status, error, None)
        self._active = self.sink.status == "active"  # 410 is a failure like any other
        self._forget_misses()

    def _pause(self, status: int | None, retry_after: float | None) -> float:
        asked = retry_after if status in (429, 503) else None
        return self.manners.quick_retry if asked is None else asked

    def _forget_misses(self) -> None:
        """A receiver that fails is tried like any other."""
        self._misses = self._refused = 0
        self._next_new = 0.0

    def _failed(self, messages: list[PendingMessage], error: str, retry_after: float | None) -> None:
        self.failed += len(messages)
        self.last_error = error
        for message in messages:
            message.attempts += 1
        most = self.sink.max_retry_count
        if most is not None and messages[0].attempts >= most:
            for message in messages:
                self.discarded += 1
                self.pending -= 1
                self._disk.discard(self, message, error)
        else:
            self._retry(messages, self._schedule.wait(messages[0].attempts, self._luck.random()))
        self._free_groups(messages)

    def _new_failed(self) -> None:
        self._forget_misses()

    def _wake_up(self) -> None:
        """Look at what is due every ten seconds; arrivals look as well, in `_offer`."""
        if self._wake is None and self._retries:
            now, grain = self._loop.time(), self.manners.look
            self._wake = self._loop.call_at((math.floor(now / grain) + 1) * grain, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._offer()
        self._wake_up()

    def _body(self, messages: list[PendingMessage]) -> bytes | None:
        body = super()._body(messages)
        if body is None or self.form.transform is not None or not any(message.change.action == "read" for message in messages):
            return body
        sent = orjson.loads(body)
        for message, one in zip(messages, sent["data"] if self.sink.batch else [sent], strict=True):
            if message.change.action == "read":
                _as_read(message, one["record"])
        return orjson.dumps(sent)


def _as_read(message: PendingMessage, record: dict[str, Any]) -> None:
    """Show the values as a real server shows those of a backfill."""
    shape = message.change.shape
    for column in shape.columns:
        value, name = record.get(column.name), shape.types.name(column.type_oid)
        if column.type_oid in INTEGERS or value is None:
            continue
        if _NULL_IN_READS.fullmatch(name):
            record[column.name] = None
        elif isinstance(value, str) and name in ("float4", "float8", "date", "timestamp", "timestamptz"):
            record[column.name] = _INFINITE.get(value, value)
        elif isinstance(value, str) and name == "time":
            record[column.name] = value if "." in value else value + ".000000"
