"""Recorded exchanges: how the files are read, and when an answer agrees with a recorded one.

Ids, times, host and port are bound on first sight and must agree afterwards; lists of sinks and endpoints have no promised order; key
order is free.
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
    """One recorded request with its answer; bodies are text, `json` is None for an answer that is none."""

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
        return json.loads(self.answer) if self.answer.startswith(("{", "[")) else None


def read(version: str) -> list[Exchange]:
    """Return the exchanges of one version in the order in which they were recorded."""
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
    """What stands for what: recorded ids and the present ones, one to one."""

    def __init__(self) -> None:
        self._present: dict[str, str] = {}

    def translate(self, text: str) -> str:
        """Put present ids in place of recorded ones in a request."""
        return _UUID.sub(lambda found: self._present.get(found.group(), found.group()), text)

    def bind(self, recorded: str, present: str) -> bool:
        known = self._present.setdefault(recorded, present)
        return known == present and list(self._present.values()).count(present) == 1

    def disagreement(self, recorded: Any, present: Any, at: str = "") -> str | None:
        """Return where and how two answers differ, or None when they agree."""
        if isinstance(recorded, dict) and isinstance(present, dict):
            if recorded.keys() != present.keys():
                return f"{at}: keys {sorted(recorded.keys() ^ present.keys())} are on one side only"
            found = (self._field(key, recorded[key], present[key], f"{at}.{key}") for key in recorded)
            return next((one for one in found if one), None)
        if isinstance(recorded, list) and isinstance(present, list):
            if len(recorded) != len(present):
                return f"{at}: {len(recorded)} entries recorded, {len(present)} present"
            if all(isinstance(one, dict) and "name" in one for one in [*recorded, *present]) and at.endswith(".data"):
                recorded, present = (sorted(side, key=lambda one: str(one["name"])) for side in (recorded, present))
            found = (self.disagreement(a, b, f"{at}[{n}]") for n, (a, b) in enumerate(zip(recorded, present, strict=True)))
            return next((one for one in found if one), None)
        if isinstance(recorded, str) and isinstance(present, str):
            return self._text(recorded, present, at)
        same = type(recorded) is type(present) and recorded == present
        return None if same else f"{at}: {recorded!r} recorded, {present!r} present"

    def _field(self, key: str, recorded: Any, present: Any, at: str) -> str | None:
        if key == "rows_initial_count" and recorded is None and isinstance(present, int):
            return None  # counted a moment earlier
        if key == "password" and isinstance(present, str):
            return None if "*" in present else f"{at}: the password is not obscured"
        return self.disagreement(recorded, present, at)

    def _text(self, recorded: str, present: str, at: str) -> str | None:
        if _UUID.fullmatch(recorded) and _UUID.fullmatch(present):
            return None if self.bind(recorded, present) else f"{at}: the id {present} stands for another recorded one"
        if _UUID.search(recorded):
            recorded = self.translate(recorded)
        one, other = _TIME.fullmatch(recorded), _TIME.fullmatch(present)
        if one and other:
            same_form = len(one.group(1) or "") == len(other.group(1) or "")
            return None if same_form else f"{at}: the time {present} has another form than {recorded}"
        return None if recorded == present else f"{at}: {recorded!r} recorded, {present!r} present"
