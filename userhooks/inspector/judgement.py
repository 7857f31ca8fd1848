"""Judgements on a received request: its secret, whose rows it holds, whether it is late, a duplicate or out of order.

Pure; the secret itself is derived in webhooks/subscription_secret.py, bodies are parsed in bodies.py, and entries.py reads the requests
that are judged.
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
"""Names within a message whose values decide whose row it is and whose subscription."""

_MOST_READINGS = 100
"""Readings of one message that are judged."""

Secret = Literal["ok", "wrong", "missing", "not applicable"]

LATE_SECONDS = 5.0
"""From commit to receipt; a message that takes longer has failed before, or waited behind one that did."""

_SHOWN = 100
"""Characters of a key or a user id that a judgement shows."""

REMEMBERED = 500_000
"""Messages that a history remembers; older ones are forgotten, and their duplicates not seen."""


class MessageFacts(NamedTuple):
    """What a judgement needs to know of one message in a body; None for what the message does not say.

    `subscriber` is the sink's annotated user, `owners` the users that the row belongs to or belonged to before the change (as text where
    the value is not an integer, so nobody's id), `row` its table and the values of its primary key, `place` its commit's LSN and index,
    `committed` in seconds since 1970. `delivery` stands for sink and idempotency key, `line` for sink and row; both are hashes, of which a
    history remembers many. `inserts` says that it tells of a new row.
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
    """The messages of a body, None when it holds none; what is wrong with it; and why it could not be looked into, if so."""

    messages: list[MessageFacts] | None
    problems: list[Judgement]
    unread: str


class Verdict(NamedTuple):
    """What is to be said about the secret of one request, and why."""

    secret: Secret
    reason: str


def messages_in(body: bytes) -> list[MessageFacts] | None:
    """The messages of a JSON body, or None when it holds anything else."""
    return read_messages((), body).messages


def read_messages(content_types: Sequence[str], body: bytes) -> BodyReading:
    """Read the messages of a body.

    Where names are repeated, a message is there once for each way to read it: a receiver may take any of the values.
    """
    values, problems, repeated = json_values(content_types, body)
    messages: list[MessageFacts] = []
    others = cut = 0
    for message in (message for value in values for message in _entries(value)):
        readings = _readings(message, _JUDGED) if repeated else [message]
        cut += len(readings) > _MOST_READINGS
        for reading in readings[:_MOST_READINGS]:
            if isinstance(reading, dict) and isinstance(reading.get("metadata"), dict):
                messages.append(_facts(reading, reading["metadata"]))
            else:
                others += 1
    unread = problems[0]["text"] if problems and not values else ""
    if messages and others:
        problems = [
            *problems,
            {"kind": "body", "text": f"Of the values in the body, {others} are not Sequin messages; {len(messages)} are."},
        ]
    if cut:
        problems = [*problems, {"kind": "unread", "text": "Names are repeated so often that not every reading of a message was judged."}]
    return BodyReading(messages or None, problems, unread)


def _entries(value: Any) -> list[Any]:
    """The messages of a batch, or the one message."""
    batch = value.get("data") if isinstance(value, dict) else None
    if isinstance(batch, Repeated):
        return [entry for one in batch for entry in (one if isinstance(one, list) else [one])]
    return batch if isinstance(batch, list) else [value]


def _readings(value: Any, names: dict[str, Any]) -> list[Any]:
    """Every way to read a value in which names are repeated, as far as it is judged; one more than are judged, at most."""
    if isinstance(value, Repeated):
        return [reading for one in value[: _MOST_READINGS + 1] for reading in _readings(one, names)][: _MOST_READINGS + 1]
    if not isinstance(value, dict):
        return [value]
    found = [value]
    for name, inner in names.items():
        if name in value:
            options = _readings(value[name], inner)
            found = [{**reading, name: option} for reading in found for option in options][: _MOST_READINGS + 1]
    return found


def judge_secret(
    home_key: bytes, authorizations: Sequence[str], subscribers: Collection[int | None] | None, urls: Sequence[str]
) -> Verdict:
    """Judge the Authorization headers of one request with messages of these subscribers, or (None) with a body that holds no messages.

    `urls` are the spellings of the request's URL that the subscription may have been made with; the secret of any of them is right.
    """
    if subscribers is None:
        return Verdict("not applicable", "The body is no Sequin message, so no subscription can be told from it.")
    users = {user for user in subscribers if user is not None}
    if not users:
        return Verdict("not applicable", "The message has no metadata.consumer.annotations.user_id: its sink was not made by subscribing.")
    if len(users) > 1:
        listed = " and ".join(str(user) for user in sorted(users))
        return Verdict("wrong", f"One request holds messages for the users {listed}; no secret fits them all.")
    (user,) = users
    if not authorizations:
        return Verdict(
            "missing", f"User {user}'s subscriptions send Authorization: Bearer <secret>; this request has no Authorization header."
        )
    if len(authorizations) > 1:
        return Verdict("wrong", f"The request has {len(authorizations)} Authorization headers; a subscription sends one.")
    if any(authorization_matches(authorizations[0], subscription_secret(home_key, user, url)) for url in urls):
        return Verdict("ok", f"It is the secret of user {user}'s subscription to this URL.")
    if not authorizations[0].startswith("Bearer "):
        return Verdict("wrong", "The Authorization header does not begin with 'Bearer '.")
    return Verdict("wrong", f"It is not the secret of user {user}'s subscription to this URL: another user's, another URL's, or made up.")


def urls_as_requested(hosts: Iterable[str], path: str, query: str, inbox_path: str, own_bases: Iterable[str]) -> list[str]:
    """Return the URLs that the sender may have been given to make this request, likeliest first.

    They are the URL as requested (scheme, `Host`, path, query), then the same path below each of `own_bases`. The inbox's own URL comes
    last, for a sink that adds a path to the URL of its endpoint.
    """
    bases = [f"http://{host}" for host in hosts]
    bases += [base for base in own_bases if base not in bases]
    target = f"{path}?{query}" if query else path
    targets = [target] if target == inbox_path else [target, inbox_path]
    return [base + target for target in targets for base in bases]


def judge_owners(messages: Sequence[MessageFacts]) -> list[Judgement]:
    """Rows of another user than the subscription's: the worst that a sender of webhooks can do."""
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
    more = f", and {len(foreign) - 1} more" if len(foreign) > 1 else ""
    table, *keys = message.row
    row = f"Row {_short(', '.join(keys))} of {table}"
    text = f"{row} belongs to user {_short(str(owner))}, and {message.sink_name} is a subscription of user {message.subscriber}{more}."
    return [{"kind": "foreign", "text": text}]


def judge_lateness(messages: Sequence[MessageFacts], received_at: float) -> list[Judgement]:
    """Report a change that arrived long after its commit; `received_at` is in seconds since 1970."""
    took = max((received_at - message.committed for message in messages if message.committed is not None), default=0.0)
    return [{"kind": "late", "text": f"Received {_duration(took)} after its commit."}] if took > LATE_SECONDS else []


class InboxHistory:
    """What an inbox received so far, as far as later requests are judged by it.

    `add` every request once, in the order of their seqs; `answered` those that had no answer then, when they get one or never will. Only
    accepted requests (2xx) make others duplicates or out of order.
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
        """Take up the next request; `unanswered` when its answer is still to come."""
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
                self._places.pop(message.line, None)  # to the end of the dict: the oldest are forgotten first
                self._places[message.line] = message.place, seq
        memories: tuple[dict[Any, Any], ...] = (self._firsts, self._places, self._misplaced)
        for memory in memories:
            if len(memory) > REMEMBERED:
                for oldest in list(islice(memory, REMEMBERED // 4)):
                    del memory[oldest]

    def new_rows(self, messages: Sequence[MessageFacts]) -> int:
        """How many messages tell of a new row and were not accepted before."""
        return sum([message.inserts and message.delivery not in self._firsts for message in messages])

    def answered(self, seq: int, *, accepted: bool) -> None:
        """Say what became of a request that was folded without an answer."""
        self.open.discard(seq)
        deliveries = self._open_deliveries.pop(seq)
        if not accepted:
            self._refused.add(seq)
            return
        for delivery in deliveries:
            self._firsts[delivery] = min(seq, self._firsts.get(delivery, seq))

    def judge(self, seq: int, messages: Sequence[MessageFacts]) -> list[Judgement]:
        """Whether a folded request is a duplicate, or out of order."""
        found: list[Judgement] = []
        firsts = [first for message in messages if (first := self._firsts.get(message.delivery, seq)) < seq]
        if firsts:
            which = "This message was" if len(messages) == 1 else f"{len(firsts)} of {len(messages)} messages were"
            text = f"{which} accepted before, with #{firsts[0]}: same sink, same idempotency key."
            found.append({"kind": "duplicate_of", "text": text, "seq": firsts[0]})
        other = self._misplaced.get(seq)
        if other is not None and other not in self._refused:
            text = f"A later change of the same row was received before, with #{other}."
            found.append({"kind": "out_of_order_with", "text": text, "seq": other})
        return found


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
    """Whose row it is; a value that is no integer is nobody's id, and so a foreign one."""
    if value is None:
        return None
    user = _user_id(int(value) if type(value) is float and value.is_integer() else value)
    return _text(value) if user is None else user


def _text(value: object) -> str:
    """A scalar as text; what nests is not gone into, however deep it may be."""
    return "…" if isinstance(value, (dict, list)) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _seconds(timestamp: str) -> float | None:
    try:
        time = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return time.timestamp() if time.tzinfo is not None else None
