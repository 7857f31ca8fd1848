"""Parse webhook bodies into messages. Pure."""

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
    """A change to one row, as delivered by a webhook.

    `action` is `insert`, `update`, `delete`, or `read` (a backfill). `record` is the row, or for a delete, the deleted row. `changes`
    contains the old values of the columns that an update changed, and is None for every other action. `metadata` is what Sequin adds. The
    format is documented under "Messages" in Sequin's reference, and matches recordings of Sequin 0.14.6.

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
        """The id of the sink that sent the message."""
        return str(self.metadata["consumer"]["id"])

    @property
    def sink_name(self) -> str:
        """The name of the sink that sent the message, like `user-1-notifications`."""
        return str(self.metadata["consumer"]["name"])

    @property
    def table(self) -> str:
        """The table with its schema, like `public.notifications`."""
        return f"{self.metadata['table_schema']}.{self.metadata['table_name']}"

    @property
    def user_id(self) -> int | None:
        """The user that the row belongs to.

        None for a row without an integer `user_id`, and for a delete from a table whose replica identity is not FULL.
        """
        value = self.record.get("user_id")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def lsn(self) -> int | None:
        """The LSN of the commit, as an integer; None for a `read`."""
        value: int | None = self.metadata["commit_lsn"]
        return value

    @property
    def idx(self) -> int | None:
        """The index of the change within its transaction, starting at 0; None for a `read`."""
        value: int | None = self.metadata["commit_idx"]
        return value

    @property
    def idempotency_key(self) -> str:
        """A key that is the same for every delivery of a message to a sink."""
        return str(self.metadata["idempotency_key"])

    @property
    def commit_timestamp(self) -> datetime:
        """The time at which the change was committed, as an aware datetime in UTC; for a `read`, the time at which Sequin read the row."""
        return datetime.fromisoformat(self.metadata["commit_timestamp"])

    def __repr__(self) -> str:
        key = ", ".join(str(value) for value in self.metadata.get("record_pks") or ())
        return f"Message({self.action} {self.metadata['table_name']} {key}, {self.sink_name})"


def parse_body(body: bytes) -> list[Message]:
    """Return the messages in a webhook's body, in order.

    A sink with `batch: true` sends `{"data": [message, …]}`; a sink with `batch: false` sends a single message. Raises InvalidInput, which
    says what is missing or malformed.
    """
    parsed = _parsed(body)
    if isinstance(parsed, dict) and "data" in parsed and "metadata" not in parsed:
        batch = parsed["data"]
        if not isinstance(batch, list):
            raise InvalidInput("data", "data is not a list of messages.")
        return [_message(entry, f"data[{number}]") for number, entry in enumerate(batch)]
    return [_message(parsed, "body")]


def _parsed(body: bytes) -> Any:
    """Parse JSON, including valid JSON that orjson rejects: numbers too large for a float, and lone surrogates."""
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
        raise InvalidInput(f"{within}.commit_timestamp", f"{within}.commit_timestamp is not a timestamp with an offset from UTC.")
    return Message(action, record, changes, metadata)


def _field(holder: dict[str, Any], where: str, name: str, *types: type) -> Any:
    value = holder.get(name, ...)
    if type(value) not in types:
        problem = "missing" if value is ... else f"of the wrong type ({type(value).__name__})"
        raise InvalidInput(f"{where}.{name}", f"{where}.{name} is {problem}, so this is not a Sequin message.")
    return value


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
