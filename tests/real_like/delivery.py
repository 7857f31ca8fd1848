"""Deliveries as in a real Sequin.

An attempt may be two requests, retries wait for the next poll, and later messages of a row overtake one that waits for a retry.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import orjson

from tests.real_like.manners import Manners
from userhooks.engine.delivery.pending_message import PendingMessage
from userhooks.engine.delivery.request_builder import BuiltRequest, RequestBuilder
from userhooks.engine.delivery.sink_delivery import Attempt, SinkDelivery
from userhooks.engine.message_format import SinkForm
from userhooks.engine.postgres.pg_types import INTEGERS
from userhooks.engine.resources import HttpEndpoint, SinkResource

_REPEATED_AT_ONCE = {408, 429, 500, 502, 503, 504}
_NULL_IN_READS = re.compile(
    r"bpchar|money|inet|cidr|macaddr8?|point|line|lseg|box|path|polygon|circle|bit|varbit|pg_lsn|int4range|int8range|numrange|tsrange"
    r"|tstzrange|daterange|int4multirange|int8multirange|nummultirange|tsmultirange|tstzmultirange|datemultirange"
)
"""Types whose values are null in the rows of a backfill, as recorded."""
_INFINITE = {"infinity": "inf", "Infinity": "inf", "-infinity": "-inf", "-Infinity": "-inf"}


class RealLikeBuilder(RequestBuilder):
    """Request builder that writes the rows of a backfill as a real server does."""

    def configure(self, sink: SinkResource, endpoint: HttpEndpoint, form: SinkForm) -> bool:
        self._shows_records = form.transform is None
        return super().configure(sink, endpoint, form)

    def build(self, messages: list[PendingMessage]) -> BuiltRequest:
        built = super().build(messages)
        if not self._shows_records or not any(message.change.action == "read" for message in messages):
            return built
        head, _, body = built.data.partition(b"\r\n\r\n")
        sent = orjson.loads(body)
        for message, entry in zip(messages, sent["data"] if self._batch else [sent], strict=False):
            if message.change.action == "read":
                _as_read(message, entry["record"])
        body = orjson.dumps(sent)
        head = re.sub(rb"content-length: \d+", b"content-length: %d" % len(body), head, count=1)
        return BuiltRequest(head + b"\r\n\r\n" + body, len(body), built.messages)


class RealLikeDelivery(SinkDelivery):
    """Delivery of one sink with a real server's retries."""

    manners: ClassVar[Manners]

    def __init__(self, sink: SinkResource, endpoint: HttpEndpoint, form: SinkForm, *args: Any, **kwargs: Any) -> None:
        self._second: dict[int, list[PendingMessage]] = {}
        """Batches whose next request is the second of the same attempt, by identity."""
        super().__init__(sink, endpoint, form, *args, **kwargs)
        self.builder = RealLikeBuilder(sink, endpoint, form)

    def answered(self, attempt: Attempt, status: int | None, error: str, retry_after: float | None) -> None:
        failed = status is None or status >= 300
        is_second = self._second.pop(id(attempt.messages), None) is not None
        if failed and not is_second and (status is None or status in _REPEATED_AT_ONCE) and attempt.life == self._life:
            self._in_flight.discard(attempt)
            self._in_flight_bytes -= attempt.size
            self._second[id(attempt.messages)] = attempt.messages
            pause = self._pause(status, retry_after)
            self.queue.retry(attempt.messages, self._loop.time() + pause)
            self._loop.call_later(pause + 0.001, self.offer)
            return
        super().answered(attempt, status, error, None)
        self._may_send = self.sink.status == "active"  # 410 does not pause the sink
        self.breaker.reset()  # a failing receiver is not treated differently

    def _pause(self, status: int | None, retry_after: float | None) -> float:
        requested = retry_after if status in (429, 503) else None
        return self.manners.quick_retry if requested is None else requested

    def _failed(self, messages: list[PendingMessage], error: str, retry_after: float | None) -> None:
        self.failed += len(messages)
        self.last_error = error
        for message in messages:
            message.attempts += 1
        max_attempts = self.sink.max_retry_count
        if max_attempts is not None and messages[0].attempts >= max_attempts:
            for message in messages:
                self.discarded += 1
                self.queue.count -= 1
                self._disk.discard(self, message, error)
        else:
            wait = self._schedule.wait(messages[0].attempts, self._rng.random())
            self.queue.retry(messages, self._loop.time() + wait)
        self.queue.free(messages)
        self._set_retry_timer()

    def _new_failed(self) -> None:
        self.breaker.reset()

    def _set_retry_timer(self) -> None:
        """Poll for due retries every ten seconds; `offer` also does when a message arrives."""
        if self._retry_timer is None and self.queue.retries:
            now, interval = self._loop.time(), self.manners.retry_poll
            self._retry_timer = self._loop.call_at((math.floor(now / interval) + 1) * interval, self._retry_due)

    def _retry_due(self) -> None:
        self._retry_timer = None
        self.offer()
        self._set_retry_timer()


def _as_read(message: PendingMessage, record: dict[str, Any]) -> None:
    """Change the values of a record to those that a real server sends in a backfill."""
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
