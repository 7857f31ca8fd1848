"""Webhook bodies turned into messages: what Sequin's JSON says, typed. Pure; receiving them and judging them live elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from userhooks.errors import InvalidInput
from userhooks.shared.json_text import NotJson, parse


@dataclass(frozen=True, slots=True)
class Message:
    """One change of one row, as a webhook carries it.

    `action` is `insert`, `update`, `delete` or `read` (a backfill). `record` holds the row, for a delete the row that went. `changes` holds
    the old values of the columns that an update changed, and is None for every other action. `metadata` is Sequin's own. Sources: Sequin's
    reference, "Messages", and what a Sequin 0.14.6 was recorded to send.

        message = parse_body(body)[0]
        message.action, message.record["message"]
        message.user_id, message.commit_timestamp
    """

    action: str
    record: Mapping[str, Any]
    changes: Mapping[str, Any] | None
    metadata: Mapping[str, Any]

    @property
    def sink_id(self) -> str:
        """The id of the sink that sent this."""
        return str(self.metadata["consumer"]["id"])

    @property
    def sink_name(self) -> str:
        """The name of the sink that sent this, like `user-1-notifications`."""
        return str(self.metadata["consumer"]["name"])

    @property
    def table(self) -> str:
        """The table with its schema, like `public.notifications`."""
        return f"{self.metadata['table_schema']}.{self.metadata['table_name']}"

    @property
    def user_id(self) -> int | None:
        """Whose row it is; None for a row without a `user_id`, and for a delete of a table whose replica identity is not FULL."""
        value = self.record.get("user_id")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def lsn(self) -> int | None:
        """The LSN of the commit, as an integer; None for a `read`."""
        value: int | None = self.metadata["commit_lsn"]
        return value

    @property
    def idx(self) -> int | None:
        """The place of the change within its transaction, from 0; None for a `read`."""
        value: int | None = self.metadata["commit_idx"]
        return value

    @property
    def idempotency_key(self) -> str:
        """The same for every delivery of one message to one sink."""
        return str(self.metadata["idempotency_key"])

    @property
    def commit_timestamp(self) -> datetime:
        """When the change was committed (UTC, aware); for a `read`, when Sequin read the row."""
        return datetime.fromisoformat(self.metadata["commit_timestamp"])

    def __repr__(self) -> str:
        key = ", ".join(str(value) for value in self.metadata.get("record_pks") or ())
        return f"Message({self.action} {self.metadata['table_name']} {key}, {self.sink_name})"


def parse_body(body: bytes) -> list[Message]:
    """Return the messages of a webhook's body, in their order in it.

    A sink with `batch: true` sends `{"data": [message, …]}`, one with `batch: false` the bare message. Raises InvalidInput, which names
    what is missing or malformed, for a body that is no such JSON; then none of its messages counts.
    """
    parsed = _parsed(body)
    if isinstance(parsed, dict) and "data" in parsed and "metadata" not in parsed:
        batch = parsed["data"]
        if not isinstance(batch, list):
            raise InvalidInput("data", "data is not a list of messages.")
        return [_message(entry, f"data[{number}]") for number, entry in enumerate(batch)]
    return [_message(parsed, "body")]


def _parsed(body: bytes) -> Any:
    """The value of a JSON text, also of one that orjson refuses: numbers beyond a float, lone surrogates."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(body)
    try:
        return parse(body.decode()).value
    except UnicodeDecodeError as error:
        raise InvalidInput("body", f"The body is not JSON (JSON is UTF-8, and byte {error.start} is not).") from None
    except NotJson as error:
        raise InvalidInput("body", f"The body is not JSON ({error}).") from None


def _message(entry: object, where: str) -> Message:
    if not isinstance(entry, dict):
        raise InvalidInput(where, f"{where} is not a JSON object, so it is not a message.")
    action = _field(entry, where, "action", str)
    record = _field(entry, where, "record", dict)
    changes = _field(entry, where, "changes", dict, type(None))
    metadata = _field(entry, where, "metadata", dict)
    within = f"{where}.metadata"
    consumer = _field(metadata, within, "consumer", dict)
    _field(consumer, f"{within}.consumer", "id", str)
    _field(consumer, f"{within}.consumer", "name", str)
    for name in ("table_schema", "table_name", "idempotency_key"):
        _field(metadata, within, name, str)
    for name in ("commit_lsn", "commit_idx"):
        _field(metadata, within, name, int, type(None))
    if not _is_time(_field(metadata, within, "commit_timestamp", str)):
        raise InvalidInput(f"{within}.commit_timestamp", f"{within}.commit_timestamp is no time with an offset from UTC.")
    return Message(action, record, changes, metadata)


def _field(holder: dict[str, Any], where: str, name: str, *types: type) -> Any:
    value = holder.get(name, ...)
    if type(value) not in types:
        what = "missing" if value is ... else f"of the wrong type ({type(value).__name__})"
        raise InvalidInput(f"{where}.{name}", f"{where}.{name} is {what}, so this is no message of Sequin's.")
    return value


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
