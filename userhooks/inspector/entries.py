"""Turn stored requests into the API's JSON objects, with their judgements. No HTTP here.

app.py documents the objects' fields.
"""

from __future__ import annotations

import base64
import codecs
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from userhooks.inspector.bodies import JUDGED_BYTES, Judgement, unpacked_body
from userhooks.inspector.judgement import (
    BodyReading,
    InboxHistory,
    MessageFacts,
    Verdict,
    judge_lateness,
    judge_owners,
    judge_secret,
    read_messages,
    urls_as_requested,
)
from userhooks.inspector.rates import Rates
from userhooks.inspector.request_store import Recorded, RequestStore, StoredInbox, header_pairs

PAGE_BYTES = 16 << 20
"""Maximum bytes of bodies in one response; clients pass the last seq to request the rest."""

_HISTORY_ROWS = 1_000
_SHORT_HEAD = 4_096
_SHORT_TARGET = 1_024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RequestEntry(NamedTuple):
    """A request as the API returns it. `json` is one line, and `unanswered` is whether the response has not been sent yet."""

    seq: int
    unanswered: bool
    json: bytes


class Entries:
    """Reads stored requests and judges them.

    Methods may be called from any thread. Calls for the same inbox wait for each other.
    """

    def __init__(self, store: RequestStore, home_key: bytes, own_bases: Sequence[str]) -> None:
        self._store = store
        self._home_key = home_key
        self._own_bases = own_bases
        self._known_verdict = lru_cache(1_000)(self._verdict)
        self._locks: dict[int, threading.Lock] = {}
        self._inboxes: dict[int, _InboxState] = {}

    def read(self, inbox: StoredInbox, after: int, limit: int, body_limit: int) -> list[RequestEntry]:
        """Return up to `limit` entries with a seq above `after`, fewer if they are large, with bodies truncated to `body_limit` bytes."""
        requests = self._store.read(inbox, after, limit, PAGE_BYTES)
        entries: list[RequestEntry] = []
        if not requests:
            return entries
        with self._lock_of(inbox):
            state = self._state_of(inbox, upto=requests[0].seq - 1)
            if len(state.judged) > 2 * self._store.ring:
                state.judged = {seq: judged for seq, judged in state.judged.items() if seq > inbox.floor}
            size = 0
            for recorded in requests:
                entry, content_size = self._entry(inbox, state, recorded, body_limit)
                entries.append(entry)
                size += content_size
                if size > PAGE_BYTES:
                    break
        return entries

    def _entry(self, inbox: StoredInbox, state: _InboxState, recorded: Recorded, body_limit: int) -> tuple[RequestEntry, int]:
        """Return one entry, and the size of its decompressed body in bytes."""
        head = _head_of(recorded)
        decompressed, compression_problems = unpacked_body(head.encodings, recorded.body, max(body_limit, JUDGED_BYTES) + 1)
        content = recorded.body if decompressed is None else decompressed
        path, query = recorded.path.decode("latin-1"), recorded.query.decode("latin-1")
        judged = state.judged.get(recorded.seq)
        if judged is None:
            messages, problems, unread = _read(head, content, compression_problems)
            if recorded.seq > state.history.upto:
                state.add(recorded, messages)
            subscribers = None if messages is None else frozenset([message.subscriber for message in messages])
            judge = self._known_verdict if len(path) + len(query) <= _SHORT_TARGET else self._verdict
            judged = judge(head.authorizations, head.hosts, path, query, inbox.id, subscribers)
            if messages is not None:
                problems = (
                    problems
                    + judge_owners(messages)
                    + state.history.judge(recorded.seq, messages)
                    + judge_lateness(messages, recorded.received_at / 1e6)
                )
            elif unread:
                judged = _Judged(Verdict("not applicable", f"{unread} Neither the secret nor the rows were judged."), judged.judgements)
            if problems:
                judged = _Judged(judged.verdict, (*judged.judgements, *problems))
            state.judged[recorded.seq] = judged
        body, encoding = _text(recorded.body, body_limit)
        decoded, decoded_encoding = (None, None) if decompressed is None else _text(decompressed, body_limit)
        entry = {
            "seq": recorded.seq,
            "received_at": _EPOCH + timedelta(microseconds=recorded.received_at),
            "method": recorded.method,
            "path": path,
            "query": query,
            "headers": head.json,
            "body": body,
            "body_encoding": encoding,
            "size": len(recorded.body),
            "truncated": len(recorded.body) > body_limit,
            "decoded": decoded,
            "decoded_encoding": decoded_encoding,
            "decoded_truncated": decompressed is not None and len(decompressed) > body_limit,
            "response_status": recorded.status,
            "response": recorded.response,
            "secret": judged.verdict.secret,
            "secret_reason": judged.verdict.reason,
            "judgements": judged.judgements,
            "note": recorded.note,
        }
        line = orjson.dumps(entry, option=orjson.OPT_UTC_Z)
        return RequestEntry(recorded.seq, recorded.status is None and not recorded.note, line), len(content)

    def _verdict(
        self,
        authorizations: tuple[str, ...],
        hosts: tuple[str, ...],
        path: str,
        query: str,
        ident: str,
        subscribers: frozenset[int | None] | None,
    ) -> _Judged:
        urls = urls_as_requested(hosts, path, query, f"/in/{ident}", self._own_bases)
        verdict = judge_secret(self._home_key, authorizations, subscribers, urls)
        return _Judged(verdict, ({"kind": "secret", "text": verdict.reason},) if verdict.secret in ("wrong", "missing") else ())

    def rates(self, inbox: StoredInbox, now: float, seconds: int) -> list[dict[str, Any]]:
        """Return the counts of the last `seconds` seconds up to `now` (in seconds since 1970)."""
        with self._lock_of(inbox):
            return self._state_of(inbox, upto=inbox.stored).rates.newest(now, seconds)

    def _lock_of(self, inbox: StoredInbox) -> threading.Lock:
        return self._locks.setdefault(inbox.number, threading.Lock())

    def _state_of(self, inbox: StoredInbox, upto: int) -> _InboxState:
        """Return the inbox's state, after updating it with the requests up to the seq `upto`."""
        state = self._inboxes.get(inbox.number)
        if state is None or state.cleared != inbox.cleared:
            state = self._inboxes[inbox.number] = _InboxState(inbox.cleared)
        history = state.history
        for seq in history.open - self._store.unanswered(inbox) if history.open else ():
            requests = self._store.read(inbox, seq - 1, 1, 1)
            status = requests[0].status if requests and requests[0].seq == seq else None
            history.answered(seq, accepted=_accepted(status))
            state.rates.answered(seq, status)
            state.judged.clear()  # later requests may now be duplicates of this one
        while history.upto < upto:
            requests = self._store.read(inbox, history.upto, min(_HISTORY_ROWS, upto - history.upto), PAGE_BYTES)
            for recorded in requests:
                head = _head_of(recorded)
                decompressed, compression_problems = unpacked_body(head.encodings, recorded.body, JUDGED_BYTES + 1)
                state.add(recorded, _read(head, recorded.body if decompressed is None else decompressed, compression_problems).messages)
            if not requests:
                history.upto = upto
        return state


class _Judged(NamedTuple):
    """The verdict and judgements of one request. They may change when an earlier request is answered."""

    verdict: Verdict
    judgements: tuple[Judgement, ...]


class _InboxState:
    """The history, rates, and cached judgements of one inbox since it was last cleared."""

    def __init__(self, cleared: int) -> None:
        self.cleared = cleared
        self.history = InboxHistory(upto=cleared)
        self.rates = Rates()
        self.judged: dict[int, _Judged] = {}

    def add(self, recorded: Recorded, messages: Sequence[MessageFacts] | None) -> None:
        unanswered = recorded.status is None and not recorded.note
        rows = self.history.new_rows(messages or ())
        self.history.add(recorded.seq, messages or (), accepted=_accepted(recorded.status), unanswered=unanswered)
        received_at = recorded.received_at / 1e6
        latencies = [received_at - message.committed for message in messages or () if message.committed is not None]
        self.rates.add(recorded.seq, received_at, recorded.status, unanswered=unanswered, latencies=latencies, rows=rows)


def _read(head: _Head, content: bytes, compression_problems: list[Judgement]) -> BodyReading:
    """Read the messages of a decompressed body; `compression_problems` are the problems found while decompressing it."""
    reading = read_messages(head.content_types, content)
    if compression_problems and reading.messages is None:
        return BodyReading(None, compression_problems, compression_problems[0]["text"])
    return reading._replace(problems=[*compression_problems, *reading.problems])


def _accepted(status: int | None) -> bool:
    return status is not None and 200 <= status < 300


class _Head(NamedTuple):
    """A request's headers as JSON, and the values of the headers that labels depend on."""

    json: orjson.Fragment
    authorizations: tuple[str, ...]
    hosts: tuple[str, ...]
    content_types: tuple[str, ...]
    encodings: tuple[str, ...]


def _head(headers: bytes) -> _Head:
    pairs = header_pairs(headers)
    values_by_name: dict[str, list[str]] = {"authorization": [], "host": [], "content-type": [], "content-encoding": []}
    for name, value in pairs:
        if name in values_by_name:
            values_by_name[name].append(value)
    return _Head(orjson.Fragment(orjson.dumps(pairs)), *(tuple(values) for values in values_by_name.values()))


_known_head = lru_cache(1_000)(_head)
"""Cached version of `_head`, because a sender repeats the same few headers, and parsing them is half of the work."""


def _head_of(recorded: Recorded) -> _Head:
    return _known_head(recorded.headers) if len(recorded.headers) <= _SHORT_HEAD else _head(recorded.headers)


def _text(body: bytes, limit: int) -> tuple[str, str]:
    """Return the first `limit` bytes of a body and their encoding: text if they are UTF-8, otherwise base64.

    A character that the limit splits is omitted.
    """
    beginning = body[:limit]
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(beginning, final=len(beginning) == len(body)), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(beginning).decode(), "base64"
