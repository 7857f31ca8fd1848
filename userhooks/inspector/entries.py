"""What the API says of each received request: the request as it was kept, and the judgements on it, as JSON; no HTTP here.

The shape of an entry is described in app.py, where people look for it.
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
"""Bodies in one answer; a reader asks again with the last seq for the rest."""

_HISTORY_ROWS = 1_000
_SHORT_HEAD = 4_096
_SHORT_TARGET = 1_024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RequestEntry(NamedTuple):
    """A request as the API shows it: `json` on one line. `unanswered`: its answer is still to come."""

    seq: int
    unanswered: bool
    json: bytes


class Entries:
    """Reads requests and judges them; for any thread, one at a time for each inbox."""

    def __init__(self, store: RequestStore, home_key: bytes, own_bases: Sequence[str]) -> None:
        self._store = store
        self._home_key = home_key
        self._own_bases = own_bases
        self._known_verdict = lru_cache(1_000)(self._verdict)
        self._locks: dict[int, threading.Lock] = {}
        self._inboxes: dict[int, _InboxState] = {}

    def read(self, inbox: StoredInbox, after: int, limit: int, body_limit: int) -> list[RequestEntry]:
        """Up to `limit` entries with a seq above `after`, fewer when they are large; bodies cut to `body_limit` bytes."""
        found = self._store.read(inbox, after, limit, PAGE_BYTES)
        entries: list[RequestEntry] = []
        if not found:
            return entries
        with self._lock_of(inbox):
            state = self._state_of(inbox, upto=found[0].seq - 1)
            if len(state.judged) > 2 * self._store.ring:
                state.judged = {seq: judged for seq, judged in state.judged.items() if seq > inbox.floor}
            size = 0
            for recorded in found:
                entry, unpacked = self._entry(inbox, state, recorded, body_limit)
                entries.append(entry)
                size += unpacked
                if size > PAGE_BYTES:
                    break
        return entries

    def _entry(self, inbox: StoredInbox, state: _InboxState, recorded: Recorded, body_limit: int) -> tuple[RequestEntry, int]:
        """One entry, and how many bytes its body holds when unpacked."""
        head = _head_of(recorded)
        unpacked, packing = unpacked_body(head.encodings, recorded.body, max(body_limit, JUDGED_BYTES) + 1)
        content = recorded.body if unpacked is None else unpacked
        path, query = recorded.path.decode("latin-1"), recorded.query.decode("latin-1")
        judged = state.judged.get(recorded.seq)
        if judged is None:
            messages, problems, unread = _read(head, content, packing)
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
                judged = _Judged(Verdict("not applicable", f"{unread} Neither its secret nor its rows were judged."), judged.judgements)
            if problems:
                judged = _Judged(judged.verdict, (*judged.judgements, *problems))
            state.judged[recorded.seq] = judged
        body, encoding = _text(recorded.body, body_limit)
        decoded, decoded_encoding = (None, None) if unpacked is None else _text(unpacked, body_limit)
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
            "decoded_truncated": unpacked is not None and len(unpacked) > body_limit,
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
        """What the inbox received in each of the newest `seconds` up to `now` (seconds since 1970)."""
        with self._lock_of(inbox):
            return self._state_of(inbox, upto=inbox.stored).rates.newest(now, seconds)

    def _lock_of(self, inbox: StoredInbox) -> threading.Lock:
        return self._locks.setdefault(inbox.number, threading.Lock())

    def _state_of(self, inbox: StoredInbox, upto: int) -> _InboxState:
        """What is known of the inbox, up to that seq at least."""
        state = self._inboxes.get(inbox.number)
        if state is None or state.cleared != inbox.cleared:
            state = self._inboxes[inbox.number] = _InboxState(inbox.cleared)
        history = state.history
        for seq in history.open - self._store.unanswered(inbox) if history.open else ():
            found = self._store.read(inbox, seq - 1, 1, 1)
            status = found[0].status if found and found[0].seq == seq else None
            history.answered(seq, accepted=_accepted(status))
            state.rates.answered(seq, status)
            state.judged.clear()  # of the later ones, some may be duplicates of this one now
        while history.upto < upto:
            piece = self._store.read(inbox, history.upto, min(_HISTORY_ROWS, upto - history.upto), PAGE_BYTES)
            for recorded in piece:
                head = _head_of(recorded)
                unpacked, packing = unpacked_body(head.encodings, recorded.body, JUDGED_BYTES + 1)
                state.add(recorded, _read(head, recorded.body if unpacked is None else unpacked, packing).messages)
            if not piece:
                history.upto = upto
        return state


class _Judged(NamedTuple):
    """The verdict and judgements of one request, valid until an earlier request gets its answer."""

    verdict: Verdict
    judgements: tuple[Judgement, ...]


class _InboxState:
    """What was read of one inbox since it was last cleared, as far as later answers need it."""

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


def _read(head: _Head, content: bytes, packing: list[Judgement]) -> BodyReading:
    """The messages of an unpacked body; `packing` says what is wrong with how it was packed."""
    reading = read_messages(head.content_types, content)
    if packing and reading.messages is None:
        return BodyReading(None, packing, packing[0]["text"])
    return reading._replace(problems=[*packing, *reading.problems])


def _accepted(status: int | None) -> bool:
    return status is not None and 200 <= status < 300


class _Head(NamedTuple):
    """The headers of a request: all of them as JSON, and the values of those that are judged."""

    json: orjson.Fragment
    authorizations: tuple[str, ...]
    hosts: tuple[str, ...]
    content_types: tuple[str, ...]
    encodings: tuple[str, ...]


def _head(headers: bytes) -> _Head:
    pairs = header_pairs(headers)
    found: dict[str, list[str]] = {"authorization": [], "host": [], "content-type": [], "content-encoding": []}
    for name, value in pairs:
        if name in found:
            found[name].append(value)
    return _Head(orjson.Fragment(orjson.dumps(pairs)), *(tuple(values) for values in found.values()))


_known_head = lru_cache(1_000)(_head)
"""A sender's requests have the same few headers, and reading them is half of the work."""


def _head_of(recorded: Recorded) -> _Head:
    return _known_head(recorded.headers) if len(recorded.headers) <= _SHORT_HEAD else _head(recorded.headers)


def _text(body: bytes, limit: int) -> tuple[str, str]:
    """The body, or its beginning, as text where it is UTF-8 (a character that the limit cuts is left out), else as base64."""
    cut = body[:limit]
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(cut, final=len(cut) == len(body)), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(cut).decode(), "base64"
