"""Recorded webhook requests: reading of the files, and normalization of requests for comparison.

Placeholders replace ids, LSNs, commit times, the host and port, and the database's name. Everything else is compared as text, including the
order of keys, except within json values.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.receiver import Received

FOLDER = Path(__file__).parents[1] / "recordings" / "0.14.6" / "webhooks"
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@dataclass(frozen=True)
class Request:
    """A webhook request: the request line, the headers in order, and the messages, with placeholders for what differs between servers."""

    line: str
    headers: tuple[tuple[str, str], ...]
    batch: bool
    messages: tuple[str, ...]


def recorded(name: str) -> list[Request]:
    """Return the requests of a recording."""
    _, *parts = re.split(r"\n# \+\d+ ms after commit[^\n]*\n", (FOLDER / name).read_text(encoding="utf-8"))
    requests = []
    for part in parts:
        head, _, body = part.strip().partition("\n\n")
        line, *headers = head.splitlines()
        requests.append(_request(line, [(n, v.strip()) for n, _, v in (h.partition(":") for h in headers)], body.encode()))
    return requests


def received(request: Received) -> Request:
    """Return a received request in a form that can be compared with a recorded one."""
    assert re.fullmatch(r"userhooks/[\w.]+", dict(request.headers)["user-agent"])
    return _request(request.line, request.headers, request.body)


def records(name: str) -> list[dict[str, Any]]:
    """Return the records of a recording by position in their transaction, so that a test can insert the same rows."""
    messages = [json.loads(text) for request in recorded(name) for text in request.messages]
    return [m["record"] for m in sorted(messages, key=lambda m: m["metadata"]["commit_idx"] or 0)]


def _request(line: str, headers: list[tuple[str, str]], body: bytes) -> Request:
    values = dict(headers)
    assert int(values["content-length"]) == len(body), "content-length must match the body"
    assert re.fullmatch(r"127\.0\.0\.1:\d+", values["host"])
    placeholders = {"content-length": "<length>", "host": "<host>", "user-agent": "<agent>"}
    document = json.loads(body)
    batch = list(document) == ["data"]
    messages = tuple(_normalized(message) for message in (document["data"] if batch else [document]))
    return Request(line, tuple((name, placeholders.get(name, value)) for name, value in headers), batch, messages)


def _normalized(message: dict[str, Any]) -> str:
    """Return a message as text with placeholders, after checking the form of each value that they replace."""
    metadata = message["metadata"]
    key = b64decode(metadata["idempotency_key"]).decode()
    if message["action"] == "read":
        row = ":".join(metadata["record_pks"])
        assert re.fullmatch(f"{_UUID}:{re.escape(row)}", key), key
        metadata["idempotency_key"] = f"<backfill>:{row}"
    else:
        assert key == f"{metadata['commit_lsn']}:{metadata['commit_idx']}"
        metadata["idempotency_key"] = f"<lsn>:{metadata['commit_idx']}"
        metadata["commit_lsn"] = "<lsn>"
    assert _TIME.fullmatch(metadata["commit_timestamp"])
    metadata["commit_timestamp"] = "<time>"
    for part in ("consumer", "database"):
        assert re.fullmatch(_UUID, metadata[part]["id"])
        metadata[part]["id"] = f"<{part}>"
    metadata["database"]["database"] = "<name>"
    record = message["record"]
    message["record"] = {column: json.loads(json.dumps(value, sort_keys=True)) for column, value in record.items()}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))
