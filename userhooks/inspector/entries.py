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
    Held,
    RowReading,
    Story,
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

_STORY_ROWS = 1_000
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
        self._inboxes: dict[int, _Told] = {}

    def read(self, inbox: StoredInbox, after: int, limit: int, body_limit: int) -> list[RequestEntry]:
        """Up to `limit` entries with a seq above `after`, fewer when they are large; bodies cut to `body_limit` bytes."""
        found = self._store.read(inbox, after, limit, PAGE_BYTES)
        entries: list[RequestEntry] = []
        if not found:
            return entries
        with self._alone(inbox):
            told = self._told(inbox, upto=found[0].seq - 1)
            if len(told.judged) > 2 * self._store.ring:
                told.judged = {seq: judged for seq, judged in told.judged.items() if seq > inbox.floor}
            size = 0
            for recorded in found:
                entry, unpacked = self._entry(inbox, told, recorded, body_limit)
                entries.append(entry)
                size += unpacked
                if size > PAGE_BYTES:
                    break
        return entries

    def _entry(self, inbox: StoredInbox, told: _Told, recorded: Recorded, body_limit: int) -> tuple[RequestEntry, int]:
        """One entry, and how many bytes its body holds when unpacked."""
        head = _head_of(recorded)
        unpacked, packing = unpacked_body(head.encodings, recorded.body, max(body_limit, JUDGED_BYTES) + 1)
        content = recorded.body if unpacked is None else unpacked
        path, query = recorded.path.decode("latin-1"), recorded.query.decode("latin-1")
        judged = told.judged.get(recorded.seq)
        if judged is None:
            held, problems, unread = _read(head, content, packing)
            if recorded.seq > told.story.folded:
                told.fold(recorded, held)
            subscribers = None if held is None else frozenset([message.subscriber for message in held])
            judge = self._known_verdict if len(path) + len(query) <= _SHORT_TARGET else self._verdict
            judged = judge(head.authorizations, head.hosts, path, query, inbox.id, subscribers)
            if held is not None:
                problems = (
                    problems + judge_owners(held) + told.story.judge(recorded.seq, held) + judge_lateness(held, recorded.received_at / 1e6)
                )
            elif unread:
                judged = _Judged(Verdict("not applicable", f"{unread} Neither its secret nor its rows were judged."), judged.judgements)
            if problems:
                judged = _Judged(judged.verdict, (*judged.judgements, *problems))
            told.judged[recorded.seq] = judged
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
        with self._alone(inbox):
            return self._told(inbox, upto=inbox.stored).rates.newest(now, seconds)

    def _alone(self, inbox: StoredInbox) -> threading.Lock:
        return self._locks.setdefault(inbox.number, threading.Lock())

    def _told(self, inbox: StoredInbox, upto: int) -> _Told:
        """What is known of the inbox, up to that seq at least."""
        told = self._inboxes.get(inbox.number)
        if told is None or told.cleared != inbox.cleared:
            told = self._inboxes[inbox.number] = _Told(inbox.cleared)
        story = told.story
        for seq in story.open - self._store.unanswered(inbox) if story.open else ():
            found = self._store.read(inbox, seq - 1, 1, 1)
            status = found[0].status if found and found[0].seq == seq else None
            story.settle(seq, accepted=_accepted(status))
            told.rates.settle(seq, status)
            told.judged.clear()  # of the later ones, some may be duplicates of this one now
        while story.folded < upto:
            piece = self._store.read(inbox, story.folded, min(_STORY_ROWS, upto - story.folded), PAGE_BYTES)
            for recorded in piece:
                head = _head_of(recorded)
                unpacked, packing = unpacked_body(head.encodings, recorded.body, JUDGED_BYTES + 1)
                told.fold(recorded, _read(head, recorded.body if unpacked is None else unpacked, packing).held)
            if not piece:
                story.folded = upto
        return told


class _Judged(NamedTuple):
    """What is said of one request; it stays, until a request before it gets its answer."""

    verdict: Verdict
    judgements: tuple[Judgement, ...]


class _Told:
    """What was read of one inbox since it was last cleared, as far as later answers need it."""

    def __init__(self, cleared: int) -> None:
        self.cleared = cleared
        self.story = Story(folded=cleared)
        self.rates = Rates()
        self.judged: dict[int, _Judged] = {}

    def fold(self, recorded: Recorded, held: Sequence[Held] | None) -> None:
        unanswered = recorded.status is None and not recorded.note
        rows = self.story.new_rows(held or ())
        self.story.fold(recorded.seq, held or (), accepted=_accepted(recorded.status), unanswered=unanswered)
        received_at = recorded.received_at / 1e6
        latencies = [received_at - message.committed for message in held or () if message.committed is not None]
        self.rates.add(recorded.seq, received_at, recorded.status, unanswered=unanswered, latencies=latencies, rows=rows)


def _read(head: _Head, content: bytes, packing: list[Judgement]) -> RowReading:
    """The messages of an unpacked body; `packing` says what is wrong with how it was packed."""
    reading = read_messages(head.content_types, content)
    if packing and reading.held is None:
        return RowReading(None, packing, packing[0]["text"])
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
