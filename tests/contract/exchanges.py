"""Recorded exchanges with the Management API: reading of the files, and comparison of responses.

Each recorded id is bound to the first actual id in its place, and must match it from then on. Times must have the same format. The order
of keys does not matter, nor does the order of sinks and endpoints in lists.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "recordings"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@dataclass(frozen=True)
class Exchange:
    """A recorded request and its response, with bodies as text."""

    name: str
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: str
    status: int
    content_type: str | None
    answer: str

    @property
    def json(self) -> Any:
        """The response's body as JSON; None if it is not JSON."""
        return json.loads(self.answer) if self.answer.startswith(("{", "[")) else None


def read(version: str) -> list[Exchange]:
    """Return the exchanges of a version in the order in which they were recorded."""
    return [_read(path) for path in sorted((FOLDER / version / "api").glob("*.http"))]


def _read(path: Path) -> Exchange:
    request, _, response = path.read_text(encoding="utf-8").partition("\n----- response")
    head, _, body = request.replace("\r\n", "\n").partition("\n\n")
    line, *header_lines = head.splitlines()
    method, target, _ = line.split(" ")
    response_head, _, answer = response.partition("\n\n")
    status_line, *answer_headers = response_head.splitlines()[1:]
    types = [value.strip() for name, _, value in (h.partition(":") for h in answer_headers) if name.lower() == "content-type"]
    headers = [(name, value.strip()) for name, _, value in (h.partition(":") for h in header_lines)]
    return Exchange(
        path.stem,
        method,
        target,
        headers,
        body.strip("\n"),
        int(status_line.split(" ")[1]),
        types[0] if types else None,
        answer.strip("\n"),
    )


class Bindings:
    """A one-to-one mapping from recorded ids to actual ids."""

    def __init__(self) -> None:
        self._actual: dict[str, str] = {}

    def translate(self, text: str) -> str:
        """Replace the recorded ids in a request with the actual ones."""
        return _UUID.sub(lambda match: self._actual.get(match.group(), match.group()), text)

    def bind(self, recorded: str, actual: str) -> bool:
        """Bind a recorded id to an actual one; return False if either is bound to another id."""
        known = self._actual.setdefault(recorded, actual)
        return known == actual and list(self._actual.values()).count(actual) == 1

    def disagreement(self, recorded: Any, actual: Any, at: str = "") -> str | None:
        """Return where and how an actual response differs from the recorded one, or None if they agree."""
        if isinstance(recorded, dict) and isinstance(actual, dict):
            if recorded.keys() != actual.keys():
                return f"{at}: keys {sorted(recorded.keys() ^ actual.keys())} are on one side only"
            problems = (self._field(key, recorded[key], actual[key], f"{at}.{key}") for key in recorded)
            return next(filter(None, problems), None)
        if isinstance(recorded, list) and isinstance(actual, list):
            if len(recorded) != len(actual):
                return f"{at}: {len(recorded)} entries recorded, {len(actual)} actual"
            if all(isinstance(entry, dict) and "name" in entry for entry in [*recorded, *actual]) and at.endswith(".data"):
                recorded, actual = (sorted(side, key=lambda entry: str(entry["name"])) for side in (recorded, actual))
            problems = (self.disagreement(a, b, f"{at}[{n}]") for n, (a, b) in enumerate(zip(recorded, actual, strict=True)))
            return next(filter(None, problems), None)
        if isinstance(recorded, str) and isinstance(actual, str):
            return self._text(recorded, actual, at)
        same = type(recorded) is type(actual) and recorded == actual
        return None if same else f"{at}: {recorded!r} recorded, {actual!r} actual"

    def _field(self, key: str, recorded: Any, actual: Any, at: str) -> str | None:
        if key == "rows_initial_count" and recorded is None and isinstance(actual, int):
            return None  # the engine may have counted the rows sooner
        if key == "password" and isinstance(actual, str):
            return None if "*" in actual else f"{at}: the password is not obscured"
        return self.disagreement(recorded, actual, at)

    def _text(self, recorded: str, actual: str, at: str) -> str | None:
        if _UUID.fullmatch(recorded) and _UUID.fullmatch(actual):
            return None if self.bind(recorded, actual) else f"{at}: the id {actual} was already bound to another recorded id"
        if _UUID.search(recorded):
            recorded = self.translate(recorded)
        recorded_time, actual_time = _TIME.fullmatch(recorded), _TIME.fullmatch(actual)
        if recorded_time and actual_time:
            same_format = len(recorded_time.group(1) or "") == len(actual_time.group(1) or "")
            return None if same_format else f"{at}: the time {actual} is not in the format of {recorded}"
        return None if recorded == actual else f"{at}: {recorded!r} recorded, {actual!r} actual"
