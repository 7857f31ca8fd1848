"""Two hundred functions that a Sequin 0.14.6 was given: which are taken, and what comes of each for the recorded row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine import wal
from userhooks.engine.functions import FunctionRaised, parse_transform
from userhooks.engine.rendering import Change

RECORDINGS = Path(__file__).parents[2] / "recordings" / "0.14.6" / "functions"
RECORDED = [json.loads(line) for line in (RECORDINGS / "functions-recorded.jsonl").read_text(encoding="utf-8").splitlines()]

COLUMNS = {
    "id": "int4",
    "user_id": "int4",
    "n": "numeric",
    "f": "float8",
    "t": "text",
    "b": "bool",
    "ts": "timestamptz",
    "tsn": "timestamp",
    "d": "date",
    "tm": "time",
    "j": "jsonb",
    "u": "uuid",
    "by": "bytea",
    "iv": "interval",
    "a": "_int4",
    "nul": "text",
    "big": "int8",
}
ROW: dict[str, bytes | None] = {
    "id": b"1",
    "user_id": b"7",
    "n": b"1.50",
    "f": b"0.1",
    "t": b"hello",
    "b": b"t",
    "ts": b"2024-02-29 12:34:56.789+00",
    "tsn": b"2024-02-29 12:34:56.7",
    "d": b"2024-02-29",
    "tm": b"13:14:15",
    "j": b'{"k": "v", "deep": [1, 2.5]}',
    "u": b"11111111-1111-4111-8111-111111111111",
    "by": rb"\x00ff",
    "iv": b"1 day 02:03:04",
    "a": b"{1,2,3}",
    "nul": None,
    "big": b"9007199254740993",
}
SHAPE = wal.shape_of(COLUMNS, ["id"], name="cmp_f")


def change() -> Change:
    """The recorded row."""
    return wal.change_of(SHAPE, wal.insert(1, list(ROW.values())))


def constants(name: str) -> dict[str, Any]:
    """What was the same for all changes of the recorded sink."""
    return {
        "consumer": {"id": "395c46a5-2e4e-473f-94d7-430fccc6404b", "name": f"g-{name.replace('_', '-')}", "annotations": {"user_id": "7"}},
        "database": {"id": "a137", "name": "postgres", "hostname": "app-db", "database": "app", "annotations": {}},
        "database_name": "postgres",
    }


def made(code: str, name: str) -> bytes:
    """What the engine sends."""
    return parse_transform(code, "transform").bind(constants(name))(change())


@pytest.mark.parametrize("recorded", RECORDED, ids=[one["name"] for one in RECORDED])
def test_a_recorded_function_is_taken_and_makes_what_was_recorded(recorded: dict[str, Any]) -> None:
    if "error" in recorded:
        said = recorded["error"].removeprefix("[sink_pipeline]: ").removeprefix("[function]: ")
        with pytest.raises(FunctionRaised) as raised:
            made(recorded["code"], recorded["name"])
        assert first_words(str(raised.value)) == first_words(said)
        line = re.search(r"\(line: \d+\)$", said)
        assert line is None or str(raised.value).endswith(line[0])
        return
    assert json.loads(made(recorded["code"], recorded["name"])) == recorded["sent"]


def first_words(text: str) -> str:
    """What an error says before it lists modules and values, which differ from server to server."""
    return re.split(r"[.\n]|, Jason| \(", text)[0]
