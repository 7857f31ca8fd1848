"""Judge a received request: its secret, the owners of its rows, and whether it is late, a duplicate, or out of order.

Pure. The secret is derived in webhooks/subscription_secret.py. Bodies are parsed in bodies.py, and entries.py reads the requests from the
store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Literal, NamedTuple

from userhooks.inspector.bodies import Judgement, json_values
from userhooks.shared.json_text import Repeated
from userhooks.webhooks.subscription_secret import authorization_matches, subscription_secret

_JUDGED: dict[str, Any] = {
    "record": {"user_id": {}},
    "changes": {"user_id": {}},
    "metadata": {"consumer": {"annotations": {"user_id": {}}}},
}
"""Names in a message whose values identify the row's owner and the subscription's user."""

_MOST_READINGS = 100
"""Maximum number of interpretations that are judged of a message that repeats names."""

Secret = Literal["ok", "wrong", "missing", "not applicable"]

LATE_SECONDS = 5.0
"""Seconds from commit to receipt after which a message is late.

A late message has usually been retried, or has waited for another message that was retried.
"""

_SHOWN = 100
"""Maximum characters of a key or a user id in a judgement."""

REMEMBERED = 500_000
"""Maximum number of messages that a history remembers; duplicates of older messages are not detected."""


class MessageFacts(NamedTuple):
    """The facts about one message that are needed to judge it. A fact that the message does not contain is None.

    `subscriber` is the user in the sink's annotations. `owners` are the user that the row belongs to and, if it differs, the user before
    the change; a value that is not an integer is kept as text, which matches no user. `row` is the table and the values of the primary key.
    `place` is the commit's LSN and the index within it, `committed` its time in seconds since 1970. `delivery` is a hash of the sink and
    the idempotency key, and `line` a hash of the sink and the row; hashes save memory in a history. `inserts` is true for an insert.
    """

    subscriber: int | None
    owners: tuple[int | str, ...]
    sink_name: str
    row: tuple[str, ...]
    place: tuple[int, int] | None
    committed: float | None
    delivery: int | None
    line: int
    inserts: bool


class BodyReading(NamedTuple):
    """The messages of a body (None if it contains none), its problems, and the reason it could not be read, or ""."""

    messages: list[MessageFacts] | None
    problems: list[Judgement]
    unread: str


class Verdict(NamedTuple):
    """The judgement on a request's secret, and the reason."""

    secret: Secret
    reason: str


def messages_in(body: bytes) -> list[MessageFacts] | None:
    """Return the messages of a JSON body, or None if it contains none."""
    return read_messages((), body).messages


def read_messages(content_types: Sequence[str], body: bytes) -> BodyReading:
    """Read the messages of a body.

    If a message repeats names, each interpretation of it is returned as a message, because a receiver may use any of the values.
    """
    values, problems, repeated = json_values(content_types, body)
    messages: list[MessageFacts] = []
    other_values = truncated = 0
    for message in (message for value in values for message in _entries(value)):
        readings = _readings(message, _JUDGED) if repeated else [message]
        truncated += len(readings) > _MOST_READINGS
        for reading in readings[:_MOST_READINGS]:
            if isinstance(reading, dict) and isinstance(reading.get("metadata"), dict):
                messages.append(_facts(reading, reading["metadata"]))
            else:
                other_values += 1
    unread = problems[0]["text"] if problems and not values else ""
    if messages and other_values:
        problems = [
            *problems,
            {"kind": "body", "text": f"The body mixes Sequin messages ({len(messages)}) and other values ({other_values})."},
        ]
    if truncated:
        problems = [
            *problems,
            {"kind": "unread", "text": "A message repeats names so often that not every interpretation was judged."},
        ]
    return BodyReading(messages or None, problems, unread)


def _entries(value: Any) -> list[Any]:
    """Return the messages of a batch, or the single message in a list."""
    batch = value.get("data") if isinstance(value, dict) else None
    if isinstance(batch, Repeated):
        return [entry for option in batch for entry in (option if isinstance(option, list) else [option])]
    return batch if isinstance(batch, list) else [value]


def _readings(value: Any, names: dict[str, Any]) -> list[Any]:
    """Return the interpretations of a value that repeats names, but at most one more than are judged.

    Only repetitions of the names in `names` are taken into account.
    """
    if isinstance(value, Repeated):
        return [reading for option in value[: _MOST_READINGS + 1] for reading in _readings(option, names)][: _MOST_READINGS + 1]
    if not isinstance(value, dict):
        return [value]
    readings = [value]
    for name, inner in names.items():
        if name in value:
            options = _readings(value[name], inner)
            readings = [{**reading, name: option} for reading in readings for option in options][: _MOST_READINGS + 1]
    return readings


def judge_secret(
    home_key: bytes, authorizations: Sequence[str], subscribers: Collection[int | None] | None, urls: Sequence[str]
) -> Verdict:
    """Judge the Authorization headers of a request whose messages have these subscribers.

    `subscribers` is None if the body contains no messages. `urls` are the URLs that the subscription may have been created with; the
    secret for any of them is accepted.
    """
    if subscribers is None:
        return Verdict("not applicable", "The body is not a Sequin message, so it does not identify a subscription.")
    users = {user for user in subscribers if user is not None}
    if not users:
        return Verdict("not applicable", "The message has no metadata.consumer.annotations.user_id, so its sink is not a subscription's.")
    if len(users) > 1:
        listed = " and ".join(str(user) for user in sorted(users))
        return Verdict("wrong", f"The request contains messages for users {listed}, so no secret is valid for all of them.")
    (user,) = users
    if not authorizations:
        return Verdict(
            "missing", f"User {user}'s subscriptions send Authorization: Bearer <secret>; this request has no Authorization header."
        )
    if len(authorizations) > 1:
        return Verdict("wrong", f"The request has {len(authorizations)} Authorization headers; a subscription sends one.")
    if any(authorization_matches(authorizations[0], subscription_secret(home_key, user, url)) for url in urls):
        return Verdict("ok", f"It matches user {user}'s subscription to this URL.")
    if not authorizations[0].startswith("Bearer "):
        return Verdict("wrong", "The Authorization header does not start with 'Bearer '.")
    reason = f"It does not match user {user}'s subscription to this URL. It belongs to another user or another URL, or is made up."
    return Verdict("wrong", reason)


def urls_as_requested(hosts: Iterable[str], path: str, query: str, inbox_path: str, own_bases: Iterable[str]) -> list[str]:
    """Return the URLs that a request's subscription may have been created with, likeliest first.

    They are the URL as requested (scheme, `Host`, path, and query), then the same path and query below each of `own_bases`. The inbox's own
    URL comes last, because a sink may add a path to the URL of its endpoint.
    """
    bases = [f"http://{host}" for host in hosts]
    bases += [base for base in own_bases if base not in bases]
    target = f"{path}?{query}" if query else path
    targets = [target] if target == inbox_path else [target, inbox_path]
    return [base + target for target in targets for base in bases]


def judge_owners(messages: Sequence[MessageFacts]) -> list[Judgement]:
    """Report rows that do not belong to the subscription's user, which is the worst error that a sender can make."""
    foreign = [
        (message, owner)
        for message in messages
        if message.subscriber is not None
        for owner in message.owners
        if owner != message.subscriber
    ]
    if not foreign:
        return []
    message, owner = foreign[0]
    suffix = f" Other foreign rows: {len(foreign) - 1}." if len(foreign) > 1 else ""
    table, *keys = message.row
    row = f"Row {_short(', '.join(keys))} of {table}"
    text = f"{row} belongs to user {_short(str(owner))}, but {message.sink_name} is a subscription of user {message.subscriber}.{suffix}"
    return [{"kind": "foreign", "text": text}]


def judge_lateness(messages: Sequence[MessageFacts], received_at: float) -> list[Judgement]:
    """Report a change that arrived long after its commit; `received_at` is in seconds since 1970."""
    latency = max((received_at - message.committed for message in messages if message.committed is not None), default=0.0)
    return [{"kind": "late", "text": f"Received {_duration(latency)} after its commit."}] if latency > LATE_SECONDS else []


class InboxHistory:
    """The facts about an inbox's earlier requests that are needed to judge later ones.

    Call `add` once for each request, in the order of seq. If a request is added as unanswered, call `answered` when its response is sent,
    or when it is certain that none will be sent. Only an accepted request (2xx) makes later ones duplicates. Only an accepted or
    unanswered request makes later ones out of order.
    """

    def __init__(self, upto: int = 0) -> None:
        self.upto = upto
        self.open: set[int] = set()
        self._firsts: dict[int | None, int] = {}
        self._places: dict[int, tuple[tuple[int, int], int]] = {}
        self._misplaced: dict[int, int] = {}
        self._open_deliveries: dict[int, list[int]] = {}
        self._refused: set[int] = set()

    def add(self, seq: int, messages: Sequence[MessageFacts], *, accepted: bool, unanswered: bool) -> None:
        """Add the next request; `unanswered` means that its response has not been sent yet."""
        self.upto = seq
        if unanswered:
            self.open.add(seq)
            self._open_deliveries[seq] = [message.delivery for message in messages if message.delivery is not None]
        for message in messages:
            if accepted and message.delivery is not None:
                self._firsts.setdefault(message.delivery, seq)
            if message.place is None:
                continue
            known = self._places.get(message.line)
            if known is not None and known[0] > message.place:
                self._misplaced[seq] = known[1]
            elif accepted or unanswered:
                self._places.pop(message.line, None)  # moves it to the end of the dict, whose oldest entries are dropped first
                self._places[message.line] = message.place, seq
        memories: tuple[dict[Any, Any], ...] = (self._firsts, self._places, self._misplaced)
        for memory in memories:
            if len(memory) > REMEMBERED:
                for oldest in list(islice(memory, REMEMBERED // 4)):
                    del memory[oldest]

    def new_rows(self, messages: Sequence[MessageFacts]) -> int:
        """Return the number of inserts among the messages, not counting those already accepted."""
        return sum([message.inserts and message.delivery not in self._firsts for message in messages])

    def answered(self, seq: int, *, accepted: bool) -> None:
        """Record the outcome of a request that was added as unanswered."""
        self.open.discard(seq)
        deliveries = self._open_deliveries.pop(seq)
        if not accepted:
            self._refused.add(seq)
            return
        for delivery in deliveries:
            self._firsts[delivery] = min(seq, self._firsts.get(delivery, seq))

    def judge(self, seq: int, messages: Sequence[MessageFacts]) -> list[Judgement]:
        """Report whether a request is a duplicate or out of order. The request must already have been added."""
        judgements: list[Judgement] = []
        firsts = [first for message in messages if (first := self._firsts.get(message.delivery, seq)) < seq]
        if firsts:
            subject = "This message was" if len(messages) == 1 else f"{len(firsts)} of {len(messages)} messages were"
            text = f"{subject} already accepted in #{firsts[0]} (same sink and idempotency key)."
            judgements.append({"kind": "duplicate_of", "text": text, "seq": firsts[0]})
        other = self._misplaced.get(seq)
        if other is not None and other not in self._refused:
            text = f"A later change to the same row arrived earlier, in #{other}."
            judgements.append({"kind": "out_of_order_with", "text": text, "seq": other})
        return judgements


def _facts(message: dict[str, Any], metadata: dict[str, Any]) -> MessageFacts:
    consumer = _dict(metadata.get("consumer"))
    sink, key, timestamp = consumer.get("id"), metadata.get("idempotency_key"), metadata.get("commit_timestamp")
    lsn, idx, keys = metadata.get("commit_lsn"), metadata.get("commit_idx"), metadata.get("record_pks")
    owner, former = _owner(_dict(message.get("record")).get("user_id")), _owner(_dict(message.get("changes")).get("user_id"))
    owners = () if owner is None else (owner,)
    row = (_text(metadata.get("table_name")), *(map(_text, keys) if type(keys) is list else "?"))
    return MessageFacts(
        _user_id(_dict(consumer.get("annotations")).get("user_id")),
        owners if former is None else (*owners, former),
        _text(consumer.get("name")),
        row,
        (lsn, idx) if type(lsn) is int and type(idx) is int and type(keys) is list else None,
        _seconds(timestamp) if type(timestamp) is str else None,
        hash((sink, key)) if type(sink) is str and type(key) is str else None,
        hash((sink, row)) if type(sink) is str else hash(row),
        message.get("action") == "insert",
    )


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


_NOTHING: dict[str, Any] = {}


def _dict(value: object) -> dict[str, Any]:
    return value if type(value) is dict else _NOTHING


def _user_id(value: object) -> int | None:
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return value if type(value) is int else None


def _owner(value: object) -> int | str | None:
    """Return the id of the row's owner; a value that is not an integer becomes text, which equals no user's id."""
    if value is None:
        return None
    user = _user_id(int(value) if type(value) is float and value.is_integer() else value)
    return _text(value) if user is None else user


def _text(value: object) -> str:
    """Return a scalar as text; an array or object, which may be nested deeply, becomes "…"."""
    return "…" if isinstance(value, (dict, list)) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _seconds(timestamp: str) -> float | None:
    try:
        time = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return time.timestamp() if time.tzinfo is not None else None
