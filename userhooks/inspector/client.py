"""A synchronous client for the inspector: read inboxes, wait for webhooks, and set responses.

The inspector, a separate program, receives the webhooks; this client calls its API.

This module is long because an inbox and its client share the code that waits for messages.
"""

from __future__ import annotations

import base64
import gc
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
from userhooks.shared.html_table import html_table
from userhooks.web.access_tokens import page_link

if TYPE_CHECKING:
    import pandas as pd

POLL = 0.05
"""Seconds between polls while waiting; short, so that a notebook's Stop button takes effect immediately."""

_PAGE = 5_000
"""Maximum number of requests to fetch in one call."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request that an inbox received.

    `received_at` is an aware datetime in UTC. `headers` keeps the order and duplicates of the headers, with names in lower case.
    `response_status` is None if no response was sent, or not yet. `response` describes the response that the script chose: `500, rule 1:
    first 3`. `secret` is `ok`, `wrong`, `missing`, or `not applicable`, and `secret_reason` says why. `judgements` are dicts with
    `kind` (`secret`, `foreign`, `duplicate_of`, `out_of_order_with`, `late`, `body`, `unread`), `text`, and `seq` if it refers to another
    request. `decoded` is the decompressed body if the body is gzip or deflate data, otherwise None.
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
        """Whether the response was 2xx, which acknowledges the request to the sender."""
        return self.response_status is not None and 200 <= self.response_status < 300

    @property
    def unanswered(self) -> bool:
        """Whether the response has not been sent yet."""
        return self.response_status is None and not self.note

    def messages(self) -> list[Message]:
        """Return the Sequin messages in the body, or an empty list if it contains anything else."""
        try:
            return parse_body(self.body if self.decoded is None else self.decoded)
        except InvalidInput:
            return []

    def __str__(self) -> str:
        answer = "not answered" if self.response_status is None else f"answered {self.response_status}"
        return f"{self.method} {self.path}, {answer}, secret {self.secret}"


class InspectorClient:
    """A client for the inspector at `url`, for example `http://127.0.0.1:3334`.

    `token` is the one that `userhooks status --json` shows. Every call raises NotRunning if the inspector does not answer. In a notebook,
    use `stack.inspector`.

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
        """Return the inbox with that name, and create it if it does not exist; raises InvalidInput if the name is not valid."""
        return self._inbox(self.call("POST", "/api/inboxes", {"name": name}))

    def inboxes(self) -> list[Inbox]:
        """Return all inboxes, oldest first."""
        entries: list[dict[str, Any]] = self.call("GET", "/api/inboxes")["inboxes"]
        return [self._inbox(entry) for entry in entries]

    def call(self, method: str, path: str, payload: object = None) -> Any:
        """Call the inspector's API, and return the decoded response.

        Raises NotFound, InvalidInput, or UserhooksError, depending on the status.
        """
        content = self.answer(method, path, payload).content
        try:
            return orjson.loads(content) if content else None
        except ValueError:
            raise self._not_the_inspector(200) from None

    def answer(self, method: str, path: str, payload: object = None) -> httpx.Response:
        """Call the inspector's API like `call`, but return the HTTP response."""
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
        what = f"The program at {self.url} is not the inspector (status {status})."
        return NotRunning(what, "Stop it or set USERHOOKS_INSPECTOR_PORT to another port, then run userhooks up.")

    def link(self, page: str) -> str:
        """Return a link that gives a browser access to one of the inspector's pages; it expires and does not contain the token."""
        return page_link(page, self._token, time.time())

    def close(self) -> None:
        """Close the client's connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return "InspectorClient()"

    def _inbox(self, entry: dict[str, Any]) -> Inbox:
        return Inbox(self, entry["id"], entry["name"], entry["url"], entry["page"])


class Inbox:
    """An inbox, as returned by `InspectorClient.inbox`. Senders post to `url`; people open `page`.

    Iterating over an inbox yields new messages as they are delivered and never ends; use `break` or a notebook's Stop button.

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
        self._check: Callable[[], None] = lambda: None

    def check_before_use(self, check: Callable[[], None]) -> None:
        """Call `check`, which may raise an error, before every method except `received`."""
        self._check = check

    @property
    def page(self) -> str:
        """A link to the inbox's page, valid for an hour; a browser that opens it keeps access for 30 days."""
        return self._inspector.link(self._page)

    def leave_out_before(self, sink_id: str, lsn: int) -> None:
        """Ignore a sink's messages with a lower `commit_lsn` everywhere except in `received`.

        A real Sequin server may send rows to a new sink that were committed before the sink was created, as recorded from 0.14.6.
        """
        self._starts[sink_id] = lsn

    def count(self) -> int:
        """Return the number of requests in the inbox, whatever their responses."""
        self._check()
        return sum(1 for _ in self._shown()) if self._starts else int(self._state()["count"])

    def last_seq(self) -> int:
        """Return the `seq` of the newest request, or 0 if there was none. Numbers are not reused after `clear`."""
        return int(self._state()["last_seq"])

    def received(self, after: int = 0) -> Iterator[Received]:
        """Return the requests with a `seq` above `after` that have been received so far, oldest first."""
        for page in self._pages(after):
            yield from page

    def _shown(self, after: int = 0) -> Iterator[Received]:
        """Yield the requests, except those that contain only ignored messages."""
        for request in self.received(after):
            messages = request.messages() if self._starts else []
            if not messages or self._kept(messages):
                yield request

    def _kept(self, messages: list[Message]) -> list[Message]:
        starts = self._starts
        if not starts:
            return messages
        return [message for message in messages if message.lsn is None or message.lsn >= starts.get(message.sink_id, 0)]

    def requests(self) -> pd.DataFrame:
        """Return the inbox's requests as a DataFrame with one row per request, oldest first.

        Columns: `seq`, `received_at` (UTC), `method`, `path`, `query`, `headers` (pairs in order), `body` (bytes), `response_status`
        (missing if no response was sent), `response`, `secret`, `secret_reason`, `judgements` (their kinds, as text: `late, duplicate_of`),
        `note`.
        """
        self._check()
        columns = {
            "seq": "int64", "received_at": _UTC, "method": "str", "path": "str", "query": "str", "headers": "object", "body": "object",
            "response_status": "Int64", "response": "str", "secret": "str", "secret_reason": "str", "judgements": "str", "note": "str",
        }  # fmt: skip
        with _no_collections():
            rows = [
                (
                    request.seq, request.received_at, request.method, request.path, request.query, request.headers, request.body,
                    request.response_status, request.response, request.secret, request.secret_reason,
                    ", ".join([judgement["kind"] for judgement in request.judgements]), request.note,
                )
                for request in self._shown()
            ]  # fmt: skip
            return _frame(columns, rows)

    def messages(self) -> pd.DataFrame:
        """Return the inbox's Sequin messages as a DataFrame with one row per message, in order of arrival.

        Columns from the request: `seq`, `received_at` (UTC), `response_status`, `secret`. Columns from the message: `action`, `table`,
        `user_id`, `sink_name`, `record`, `changes`, `commit_timestamp` (UTC), `lsn`, `idx`, `idempotency_key`. The last column is
        `latency_ms`, from commit to receipt.
        """
        self._check()
        columns = {
            "seq": "int64", "received_at": _UTC, "response_status": "Int64", "secret": "str", "action": "str", "table": "str",
            "user_id": "Int64", "sink_name": "str", "record": "object", "changes": "object", "commit_timestamp": _UTC, "lsn": "Int64",
            "idx": "Int64", "idempotency_key": "str",
        }  # fmt: skip
        with _no_collections():
            rows = [
                (
                    request.seq, request.received_at, request.response_status, request.secret, message.action, message.table,
                    message.user_id, message.sink_name, message.record, message.changes, message.commit_timestamp, message.lsn,
                    message.idx, message.idempotency_key,
                )
                for request in self.received()
                for message in self._kept(request.messages())
            ]  # fmt: skip
            frame = _frame(columns, rows)
        frame["latency_ms"] = (frame["received_at"] - frame["commit_timestamp"]).dt.total_seconds() * 1000
        return frame

    def wait_for(self, n: int, match: Callable[[Message], object] | None = None, timeout: float = 10.0) -> list[Message]:
        """Wait until the inbox contains `n` delivered messages, and return the first `n`.

        A message is delivered if its request was answered 2xx, so a failed attempt and its retry count once. If `match` is given, only
        messages for which it returns a true value count. `timeout` is in seconds. Raises DeliveriesMissing, which says what
        arrived instead.
        """
        if not hasattr(n, "__index__") or n < 0:
            raise InvalidInput("n", f"n is {n!r}.", "Wait for 0 or more messages, like inbox.wait_for(10).")
        if not isinstance(timeout, (int, float)):
            raise InvalidInput("timeout", f"timeout is {timeout!r}.", "Give seconds, like inbox.wait_for(10, timeout=5).")
        if match is not None and not callable(match):
            raise InvalidInput("match", f"match is {match!r}.", 'Pass a function, like match=lambda message: message.action == "insert".')
        self._check()
        deadline = time.monotonic() + timeout
        tally = _Tally(match, self._kept)
        while True:
            tally.add(self._shown(tally.settled), enough=n)
            if len(tally.wanted) >= n:
                return [message for _, message in sorted(tally.wanted, key=lambda numbered: numbered[0])][:n]
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                self._check()
                raise DeliveriesMissing(
                    f"{len(tally.wanted)} of {_many(n, 'message')} arrived in the inbox {self.name!r} within {timeout:g} s.",
                    tally.what_came_instead(),
                )
            time.sleep(min(POLL, remaining))

    def wait_for_attempts(self, n: int, timeout: float = 10.0) -> list[Received]:
        """Wait until `n` requests were answered or abandoned by their sender, and return the first `n` in order of arrival.

        Unlike `wait_for`, this counts failed attempts too. `timeout` is in seconds. Raises DeliveriesMissing.
        """
        self._check()
        deadline = time.monotonic() + timeout
        while True:
            attempts = [request for request in self._shown() if not request.unanswered]
            if len(attempts) >= n:
                return attempts[:n]
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                self._check()
                raise DeliveriesMissing(
                    f"{len(attempts)} of {_many(n, 'attempt')} arrived in the inbox {self.name!r} within {timeout:g} s.",
                    "Check that this inbox's URL is subscribed and that a row of that user was written.",
                )
            time.sleep(min(POLL, remaining))

    def clear(self) -> None:
        """Remove every request received so far."""
        self._check()
        self._inspector.call("DELETE", f"/api/inboxes/{self.id}/requests")

    def respond(
        self, script: Sequence[Mapping[str, Any]] | None = None, *, status: int = 200, delay: float = 0.0, fail_first: int = 0
    ) -> None:
        """Set the inbox's response script, starting with the next request. Raises InvalidInput.

        Without arguments, the answer is 200 immediately.

        A script is a list of rules. The first rule that matches a request decides; when none matches, the answer is 200. A rule has at most
        one condition: `first` (the first N requests), `every` (every Nth request), or `percent` with `seed`. It sets `status`, `delay`
        (seconds), `retry_after` (seconds), `headers` (a dict), and `body` (a string of up to 64 kB), or an `effect`: `hang`, `drip`,
        `reset`, `redirect`, `oversized`.

        `status`, `delay`, and `fail_first` are a short form: after `delay` seconds, the answer is `status`, or 500 for the first
        `fail_first` requests.

            inbox.respond([{"first": 3, "status": 500}, {"percent": 5, "seed": 7, "status": 429, "retry_after": 2}])
            inbox.respond(fail_first=2)
        """
        if script is None:
            script = [{"first": fail_first, "status": 500, "delay": delay}] if fail_first else []
            script += [{"status": status, "delay": delay}] if (status, delay) != (200, 0) else []
        elif (status, delay, fail_first) != (200, 0, 0):
            raise InvalidInput("script", "Both a script and a short form were given.", "Write status and delay into the script's rules.")
        self._check()
        rules = [rule.as_json() for rule in parse_script(script)]
        self._inspector.call("PUT", f"/api/inboxes/{self.id}/response", {"script": rules})

    def script(self) -> list[dict[str, Any]]:
        """Return the inbox's current response script, as `respond` takes it; empty if it answers 200 immediately."""
        rules: list[dict[str, Any]] = self._state()["response"]["script"]
        return rules

    def _pages(self, after: int) -> Iterator[list[Received]]:
        """Return the requests with a `seq` above `after` that have been received so far, in pages. The next page is fetched in advance."""
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
        self._check()
        return self._follow(_Tally(None, self._kept, settled=self.last_seq()))

    def _follow(self, tally: _Tally) -> Iterator[Message]:
        while True:
            tally.add(self._shown(tally.settled))
            delivered, tally.wanted = tally.wanted, []
            for _, message in delivered:
                yield message
            if not delivered:
                time.sleep(POLL)

    def __repr__(self) -> str:
        return f"Inbox({self.name!r})"

    def _repr_html_(self) -> str:
        caption = f"Inbox {self.name}"
        try:
            state = self._state()
        except UserhooksError as error:
            return html_table(caption, {"problem": error.what})
        answers = "; ".join(state["response"]["words"])
        return html_table(caption, {"requests": state["count"], "dropped": state["dropped"], "answers": answers})

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._inspector.call("GET", f"/api/inboxes/{self.id}")
        return state


class _Tally:
    """The wanted messages received so far, and counts of other requests and messages.

    `settled` is the `seq` after which to read next. It stays below the first unanswered request, so that this request is read again.
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
        """Look at more requests until `enough` matching messages have been found."""
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
            self._refused[f"answered {request.response_status}" if request.response_status else "abandoned by the sender"] += 1
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
            return "No request arrived. Check that this inbox's URL is subscribed and that a row of that user was written."
        parts = [f"{_many(count, 'request')} {outcome}" for outcome, count in sorted(self._refused.items())]
        parts += [f"{_many(self._unanswered, 'request')} not answered yet"] if self._unanswered else []
        parts += [f"{_many(self._other, 'message')} that did not match"] if self._other else []
        parts += [f"{_many(self._foreign, 'request')} without a Sequin message"] if self._foreign else []
        return f"Also received: {', '.join(parts) or 'nothing'}. Last request: {self._last}."


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@contextmanager
def _no_collections() -> Iterator[None]:
    """Disable the garbage collector, which would scan many new objects again and again, although none of them is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_UTC = "datetime64[us, UTC]"


def _frame(columns: dict[str, str], rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Return a DataFrame of these rows. Each column has the dtype in `columns`, even if there are no rows."""
    with lab_extra():
        import pandas as pd

    by_column = zip(*rows, strict=True) if rows else [()] * len(columns)
    series = zip(columns.items(), by_column, strict=True)
    return pd.DataFrame({column: pd.Series(list(values), dtype=dtype) for (column, dtype), values in series})


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
