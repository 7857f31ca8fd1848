"""The inspector from Python: inboxes, what they received, and waiting for it; synchronous, as notebook cells are.

Nothing here listens for webhooks; that is the inspector's own program, which this asks over HTTP.

It is long because an inbox and its client share what is waited for.
"""

from __future__ import annotations

import base64
import gc
import html
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx
import orjson

from userhooks.errors import START, DeliveriesMissing, InvalidInput, NotFound, NotRunning, UserhooksError
from userhooks.inspector.messages import Message, parse_body
from userhooks.inspector.response_script import parse_script
from userhooks.shared.extras import lab_extra
from userhooks.web.access_tokens import page_link

if TYPE_CHECKING:
    import pandas as pd

POLL = 0.05
"""Seconds between two looks while waiting: short, so that a notebook's Stop button works at once."""

_PAGE = 5_000


@dataclass(frozen=True, slots=True)
class Received:
    """One request that an inbox received, in full.

    `received_at` is aware (UTC). `headers` keep order and duplicates; names are in lower case. `response_status` is None when no answer was
    sent, yet or ever; `response` says what the response script wanted: `500, rule 1: first 3`. `secret` is `ok`, `wrong`, `missing` or
    `not applicable`, and `secret_reason` says why. `judgements` are dicts with `kind` (`secret`, `foreign`, `duplicate_of`,
    `out_of_order_with`, `late`, `body`, `unread`), `text`, and `seq` where another request is meant.
    `decoded` is a gzip or deflate body unpacked, None for any other.
    """

    seq: int
    received_at: datetime
    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)
    response_status: int | None
    secret: str
    secret_reason: str
    note: str
    response: str = ""
    judgements: tuple[Mapping[str, Any], ...] = ()
    decoded: bytes | None = field(default=None, repr=False)

    @property
    def accepted(self) -> bool:
        """Whether the sender was told that its request has arrived (2xx)."""
        return self.response_status is not None and 200 <= self.response_status < 300

    @property
    def unanswered(self) -> bool:
        """Whether the answer is still to come."""
        return self.response_status is None and not self.note

    def messages(self) -> list[Message]:
        """The Sequin messages in the body; none when it holds something else."""
        try:
            return parse_body(self.body if self.decoded is None else self.decoded)
        except InvalidInput:
            return []

    def __str__(self) -> str:
        answer = "not answered" if self.response_status is None else f"answered {self.response_status}"
        return f"{self.method} {self.path}, {answer}, secret {self.secret}"


class InspectorClient:
    """The inspector at `url`, for example `http://127.0.0.1:3334`, with the token that `userhooks status --json` shows.

    Every call raises NotRunning when nothing answers there. In a notebook, `stack.inspector` is one.

        inspector = InspectorClient("http://127.0.0.1:3334", token)
        inbox = inspector.inbox("ada")
        inbox.wait_for(1)
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._token = token
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=httpx.Timeout(60.0, connect=5.0))

    def inbox(self, name: str) -> Inbox:
        """The inbox of that name, created when there is none; raises InvalidInput when the name cannot be used."""
        return self._known(self.call("POST", "/api/inboxes", {"name": name}))

    def inboxes(self) -> list[Inbox]:
        """Every inbox, oldest first."""
        listed: list[dict[str, Any]] = self.call("GET", "/api/inboxes")["inboxes"]
        return [self._known(entry) for entry in listed]

    def call(self, method: str, path: str, payload: object = None) -> Any:
        """One call of the inspector's API; returns the decoded answer, raises what its status means."""
        content = self.answer(method, path, payload).content
        try:
            return orjson.loads(content) if content else None
        except ValueError:
            raise self._not_the_inspector(200) from None

    def answer(self, method: str, path: str, payload: object = None) -> httpx.Response:
        """As `call`, but returns the answer as it came."""
        content = None if payload is None else orjson.dumps(payload)
        headers = {} if payload is None else {"content-type": "application/json"}
        try:
            response = self._http.request(method, path, content=content, headers=headers)
        except httpx.TransportError as error:
            raise NotRunning(f"The inspector does not answer at {self.url} ({error}).", f"{START}.") from None
        if response.is_success:
            return response
        try:
            problem = orjson.loads(response.content)
            text = str(problem["error"])
        except (ValueError, TypeError, KeyError):
            raise self._not_the_inspector(response.status_code) from None
        if response.status_code == 404:
            raise NotFound(text)
        if "field" in problem:
            raise InvalidInput(problem["field"], text)
        raise UserhooksError(f"The inspector answered {response.status_code}: {text}")

    def _not_the_inspector(self, status: int) -> NotRunning:
        what = f"What answers at {self.url} is not the inspector (status {status})."
        return NotRunning(what, "Stop the other program or set USERHOOKS_INSPECTOR_PORT to another port, then: userhooks up")

    def link(self, page: str) -> str:
        """Return the address of one of the inspector's pages as a link that lets a browser in; it expires, and holds no token."""
        return page_link(page, self._token, time.time())

    def close(self) -> None:
        """Close the connections; the inspector and its inboxes stay."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return "InspectorClient()"

    def _known(self, entry: dict[str, Any]) -> Inbox:
        return Inbox(self, entry["id"], entry["name"], entry["url"], entry["page"])


class Inbox:
    """One inbox: senders post to `url`, people open `page`. Made by `InspectorClient.inbox`.

    Iterating over an inbox yields the messages that are delivered from then on, without end; interrupt it with Stop or `break`.

        inbox.wait_for(3, match=lambda message: message.action == "insert")
        inbox.messages().groupby("action").size()
        inbox.respond(fail_first=2)
    """

    def __init__(self, inspector: InspectorClient, ident: str, name: str, url: str, page: str) -> None:
        self._inspector = inspector
        self.id = ident
        self.name = name
        self.url = url
        self._page = page
        self._starts: dict[str, int] = {}

    @property
    def page(self) -> str:
        """A link to the inbox's page, good for an hour; the browser that opens it is let in for 30 days."""
        return self._inspector.link(self._page)

    def leave_out_before(self, sink_id: str, lsn: int) -> None:
        """Leave a sink's messages with a lower `commit_lsn` out of everything but `received`.

        A real Sequin server may send a new sink rows that were committed before the sink was made (recorded of 0.14.6).
        """
        self._starts[sink_id] = lsn

    def count(self) -> int:
        """How many requests the inbox holds, whatever they were answered."""
        return sum(1 for _ in self._shown()) if self._starts else int(self._state()["count"])

    def received(self, after: int = 0) -> Iterator[Received]:
        """The requests with a `seq` above `after`, oldest first, as far as there are any now."""
        for page in self._pages(after):
            yield from page

    def _shown(self, after: int = 0) -> Iterator[Received]:
        """The requests, without those that hold nothing but messages to leave out."""
        for request in self.received(after):
            messages = request.messages() if self._starts else []
            if not messages or self._kept(messages):
                yield request

    def _kept(self, messages: list[Message]) -> list[Message]:
        starts = self._starts
        return [one for one in messages if one.lsn is None or one.lsn >= starts.get(one.sink_id, 0)] if starts else messages

    def requests(self) -> pd.DataFrame:
        """Every request in the inbox, one row each, oldest first.

        Columns: `seq`, `received_at` (UTC), `method`, `path`, `query`, `headers` (pairs in order), `body` (bytes), `response_status`
        (missing when no answer was sent), `response`, `secret`, `secret_reason`, `judgements` (their kinds, as text: `late, duplicate_of`),
        `note`.
        """
        columns = {
            "seq": "int64", "received_at": _UTC, "method": "str", "path": "str", "query": "str", "headers": "object", "body": "object",
            "response_status": "Int64", "response": "str", "secret": "str", "secret_reason": "str", "judgements": "str", "note": "str",
        }  # fmt: skip
        with _no_collections():
            rows = [
                (
                    one.seq, one.received_at, one.method, one.path, one.query, one.headers, one.body, one.response_status, one.response,
                    one.secret, one.secret_reason, ", ".join([judgement["kind"] for judgement in one.judgements]), one.note,
                )
                for one in self._shown()
            ]  # fmt: skip
            return _frame(columns, rows)

    def messages(self) -> pd.DataFrame:
        """Every Sequin message in the inbox, one row each, in the order of arrival; a batch gives as many rows as it has messages.

        Columns: `seq`, `received_at` (UTC), `response_status` and `secret` of the request; `action`, `table`, `user_id`, `sink_name`,
        `record`, `changes`, `commit_timestamp` (UTC), `lsn`, `idx`, `idempotency_key` of the message; `latency_ms`, from commit to receipt.
        """
        columns = {
            "seq": "int64", "received_at": _UTC, "response_status": "Int64", "secret": "str", "action": "str", "table": "str",
            "user_id": "Int64", "sink_name": "str", "record": "object", "changes": "object", "commit_timestamp": _UTC, "lsn": "Int64",
            "idx": "Int64", "idempotency_key": "str",
        }  # fmt: skip
        with _no_collections():
            rows = [
                (
                    request.seq, request.received_at, request.response_status, request.secret, one.action, one.table, one.user_id,
                    one.sink_name, one.record, one.changes, one.commit_timestamp, one.lsn, one.idx, one.idempotency_key,
                )
                for request in self.received()
                for one in self._kept(request.messages())
            ]  # fmt: skip
            frame = _frame(columns, rows)
        frame["latency_ms"] = (frame["received_at"] - frame["commit_timestamp"]).dt.total_seconds() * 1000
        return frame

    def wait_for(self, n: int, match: Callable[[Message], object] | None = None, timeout: float = 10.0) -> list[Message]:
        """Wait until `n` messages were delivered, and return the first `n`; those that had come before the call count as well.

        Delivered means answered 2xx: a failed attempt and its repetition are not two. `match` picks which messages count; `timeout` is in
        seconds. Raises DeliveriesMissing, which says what came instead.
        """
        if not hasattr(n, "__index__") or n < 0:
            raise InvalidInput("n", f"n is {n!r}.", "Wait for 0 or more messages, like inbox.wait_for(10).")
        if not isinstance(timeout, (int, float)):
            raise InvalidInput("timeout", f"timeout is {timeout!r}.", "Give seconds, like inbox.wait_for(10, timeout=5).")
        if match is not None and not callable(match):
            raise InvalidInput("match", f"match is {match!r}.", 'Pass a function, like match=lambda message: message.action == "insert".')
        deadline = time.monotonic() + timeout
        tally = _Tally(match, self._kept)
        while True:
            tally.add(self._shown(tally.settled), enough=n)
            if len(tally.wanted) >= n:
                return [message for _, message in sorted(tally.wanted, key=lambda found: found[0])][:n]
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeliveriesMissing(
                    f"{len(tally.wanted)} of {_many(n, 'message')} came to the inbox {self.name!r} within {timeout:g} s.",
                    tally.what_came_instead(),
                )
            time.sleep(min(POLL, left))

    def wait_for_attempts(self, n: int, timeout: float = 10.0) -> list[Received]:
        """Wait until `n` requests were answered, whatever with, or given up by their sender; return the first `n` in order of arrival.

        `wait_for` counts what was delivered; this counts failed attempts as well. `timeout` is in seconds. Raises DeliveriesMissing.
        """
        deadline = time.monotonic() + timeout
        while True:
            attempts = [request for request in self._shown() if not request.unanswered]
            if len(attempts) >= n:
                return attempts[:n]
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeliveriesMissing(
                    f"{len(attempts)} of {_many(n, 'attempt')} came to the inbox {self.name!r} within {timeout:g} s.",
                    "Is this inbox's URL subscribed, and was a row of that user written?",
                )
            time.sleep(min(POLL, left))

    def clear(self) -> None:
        """Remove every request received so far."""
        self._inspector.call("DELETE", f"/api/inboxes/{self.id}/requests")

    def respond(
        self, script: Sequence[Mapping[str, Any]] | None = None, *, status: int = 200, delay: float = 0.0, fail_first: int = 0
    ) -> None:
        """Answer with this response script from the next request on; without arguments, 200 immediately. Raises InvalidInput.

        A script is a list of rules. The first rule that matches a request decides; when none matches, the answer is 200. A rule has at most
        one condition: `first` (the first N requests), `every` (every Nth request), or `percent` with `seed`. It sets `status`, `delay`
        (seconds), `retry_after` (seconds), or an `effect`: `hang`, `drip`, `reset`, `redirect`, `oversized`.

        `status`, `delay` and `fail_first` are the short form: answer `status` after `delay` seconds, but 500 to the first `fail_first`
        requests.

            inbox.respond([{"first": 3, "status": 500}, {"percent": 5, "seed": 7, "status": 429, "retry_after": 2}])
            inbox.respond(fail_first=2)
        """
        if script is None:
            script = [{"first": fail_first, "status": 500, "delay": delay}] if fail_first else []
            script += [{"status": status, "delay": delay}] if (status, delay) != (200, 0) else []
        elif (status, delay, fail_first) != (200, 0, 0):
            raise InvalidInput("script", "Both a script and a short form were given.", "Write status and delay into the script's rules.")
        rules = [rule.as_json() for rule in parse_script(script)]
        self._inspector.call("PUT", f"/api/inboxes/{self.id}/response", {"script": rules})

    def script(self) -> list[dict[str, Any]]:
        """Return the inbox's current response script, as `respond` takes it; empty if it answers 200 immediately."""
        rules: list[dict[str, Any]] = self._state()["response"]["script"]
        return rules

    def _pages(self, after: int) -> Iterator[list[Received]]:
        """What there is now above `after`, in pieces; the next piece is fetched while the one before is worked on."""
        url = f"/api/inboxes/{self.id}/requests?after={after}&limit={_PAGE}"
        last = None
        with ThreadPoolExecutor(1, thread_name_prefix="userhooks inbox") as ahead:
            answer = self._inspector.answer("GET", url)
            while True:
                following = ahead.submit(self._inspector.answer, "GET", answer.links["next"]["url"]) if "next" in answer.links else None
                with _no_collections():
                    page = orjson.loads(answer.content)
                    received = [_received(entry) for entry in page["requests"]]
                yield received
                last = page["last_seq"] if last is None else last
                if following is None or received[-1].seq >= last:
                    return
                answer = following.result()

    def __iter__(self) -> Iterator[Message]:
        return self._follow(_Tally(None, self._kept, settled=int(self._state()["last_seq"])))

    def _follow(self, tally: _Tally) -> Iterator[Message]:
        while True:
            tally.add(self._shown(tally.settled))
            found, tally.wanted = tally.wanted, []
            for _, message in found:
                yield message
            if not found:
                time.sleep(POLL)

    def __repr__(self) -> str:
        return f"Inbox({self.name!r})"

    def _repr_html_(self) -> str:
        try:
            state = self._state()
        except UserhooksError as error:
            return f"<table><caption>Inbox {html.escape(self.name)}</caption><tr><td>{html.escape(error.what)}</td></tr></table>"
        answer = "; ".join(state["response"]["words"])
        rows = [("requests", str(state["count"])), ("dropped", str(state["dropped"])), ("answers", answer)]
        cells = "".join(f"<tr><th>{html.escape(label)}</th><td>{html.escape(value)}</td></tr>" for label, value in rows)
        return f"<table><caption>Inbox {html.escape(self.name)}</caption>{cells}</table>"

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._inspector.call("GET", f"/api/inboxes/{self.id}")
        return state


class _Tally:
    """What came since `settled`, a seq: the wanted messages, and how many requests and messages were something else.

    Requests whose answer is still to come are looked at again: `settled` stays below the first of them.
    """

    def __init__(self, match: Callable[[Message], object] | None, kept: Callable[[list[Message]], list[Message]], settled: int = 0) -> None:
        self.match = match
        self.kept = kept
        self.settled = settled
        self.wanted: list[tuple[int, Message]] = []
        self._counted: set[int] = set()
        self._unanswered = 0
        self._refused: Counter[str] = Counter()
        self._foreign = self._other = 0
        self._last: Received | None = None

    def add(self, received: Iterator[Received], enough: float = math.inf) -> None:
        """Count further requests, until there are `enough` wanted messages."""
        self._unanswered = 0
        settled = self.settled
        for request in received:
            if len(self.wanted) >= enough:
                break
            self._last = request
            if request.unanswered:
                self._unanswered += 1
                continue
            if not self._unanswered:
                settled = request.seq
            if request.seq not in self._counted:
                self._counted.add(request.seq)
                self._count(request)
        self.settled = settled
        self._counted = {seq for seq in self._counted if seq > settled}

    def _count(self, request: Received) -> None:
        if not request.accepted:
            self._refused[f"answered {request.response_status}" if request.response_status else "given up by their sender"] += 1
            return
        messages = request.messages()
        self._foreign += not messages
        for message in self.kept(messages):
            if self.match is None or self.match(message):
                self.wanted.append((request.seq, message))
            else:
                self._other += 1

    def what_came_instead(self) -> str:
        if self._last is None:
            return "No request came at all: is this inbox's URL subscribed, and was a row of that user written?"
        parts = [f"{_many(count, 'request')} {what}" for what, count in sorted(self._refused.items())]
        parts += [f"{_many(self._unanswered, 'request')} not answered yet"] if self._unanswered else []
        parts += [f"{_many(self._other, 'message')} without a match"] if self._other else []
        parts += [f"{_many(self._foreign, 'request')} without a Sequin message"] if self._foreign else []
        return f"Besides: {', '.join(parts) or 'nothing else'}. The last request: {self._last}."


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep Python's garbage collector from looking through many new objects again and again, none of which is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_UTC = "datetime64[us, UTC]"


def _frame(columns: dict[str, str], rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """A DataFrame of rows, with a dtype for each column, also when there are no rows."""
    with lab_extra():
        import pandas as pd

    by_column = zip(*rows, strict=True) if rows else [()] * len(columns)
    filled = zip(columns.items(), by_column, strict=True)
    return pd.DataFrame({column: pd.Series(list(values), dtype=dtype) for (column, dtype), values in filled})


def _received(entry: dict[str, Any]) -> Received:
    return Received(
        entry["seq"],
        datetime.fromisoformat(entry["received_at"]),
        entry["method"],
        entry["path"],
        entry["query"],
        tuple(map(tuple, entry["headers"])),
        _bytes(entry["body"], entry["body_encoding"]),
        entry["response_status"],
        entry["secret"],
        entry["secret_reason"],
        entry["note"],
        entry["response"],
        tuple(entry["judgements"]),
        None if entry["decoded"] is None else _bytes(entry["decoded"], entry["decoded_encoding"]),
    )


def _bytes(text: str, encoding: str) -> bytes:
    return text.encode() if encoding == "utf-8" else base64.b64decode(text)
