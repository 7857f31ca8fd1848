"""Two hundred functions recorded with Sequin 0.14.6: which are accepted, and what each returns for the recorded row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine import wal
from userhooks.engine import functions
from userhooks.engine.change import Change
from userhooks.engine.functions import FunctionError, FunctionRaised, parse_transform

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


def change(**values: bytes | None) -> Change:
    """Return an insert of the recorded row, with these columns replaced."""
    return wal.change_of(SHAPE, wal.insert(1, list({**ROW, **values}.values())))


def constants(name: str) -> dict[str, Any]:
    """Return the metadata shared by all changes of the recorded sink."""
    return {
        "consumer": {"id": "395c46a5-2e4e-473f-94d7-430fccc6404b", "name": f"g-{name.replace('_', '-')}", "annotations": {"user_id": "7"}},
        "database": {"id": "a137", "name": "postgres", "hostname": "app-db", "database": "app", "annotations": {}},
        "database_name": "postgres",
    }


def made(code: str, name: str) -> bytes:
    """Return the message that the engine sends."""
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
    """Return the beginning of an error, before modules and values, which differ between servers."""
    return re.split(r"[.\n]|, Jason| \(", text)[0]


# --- what is accepted, and what is refused ---------------------------------------------------------------------------------------

_LINE = re.compile(r"  (\S+) \| (.*?) \| (?:real )?(?:\d{3} )?(\{.*|Internal Server Error.*)")
_SAID = re.compile(r'code: \[\\"((?:[^\\]|\\\\\\")*)\\"')


def listed(heading: str) -> list[tuple[str, str, str]]:
    """Return the name, the body, and Sequin's response for each function under a heading of `functions-accepted.txt`."""
    text = (RECORDINGS / "functions-accepted.txt").read_text(encoding="utf-8")
    lines = text.split(f"== {heading}\n")[1].split("\n== ")[0].splitlines()
    found = [_LINE.fullmatch(line) for line in lines]
    return [(m[1], m[2], m[3]) for m in found if m is not None]


def as_code(body: str) -> str:
    """Return the code of a transform from a listed body, in which semicolons separate lines."""
    return f"def transform(action, record, changes, metadata) do\n  {body.replace('; ', chr(10))}\nend"


IN_FULL = {one["name"] for one in RECORDED}
TAKEN = [one for one in listed("real accepts, local refuses") if one[0] not in IN_FULL]
REFUSED = [one for h in ("local accepts, real refuses", "both refuse") for one in listed(h) if not one[0].startswith("H_")]
RESULTS = {
    "add_n": "bad argument in arithmetic expression",
    "intdiv": 4503599627370496,
    "rem": 1,
    "fn": 42,
    "mapdelete": {name: value for name, value in RECORDED[0]["sent"].items() if name != "t"},
    "meta_lsn": True,
    "sigil": ["a", "b"],
    "charlist": [97, 98, 99],
    "list_len": 2,
    "self": "protocol Jason",
    "max": 2,
    "abs": 1,
}
"""Results in Elixir of the functions whose results were not recorded."""


def test_the_lists_are_read_as_a_whole() -> None:
    assert {name for name, _, _ in TAKEN} == set(RESULTS)
    assert len(REFUSED) == 22
    heads = [one for h in ("local accepts, real refuses", "both refuse") for one in listed(h) if one[0].startswith("H_")]
    assert (len(listed("real accepts, local refuses")), len(REFUSED) + len(heads)) == (164 - 108, 200 - 164)


@pytest.mark.parametrize(("name", "body"), [(name, body) for name, body, _ in TAKEN], ids=list(RESULTS))
def test_what_the_server_takes_is_taken(name: str, body: str) -> None:
    expected = RESULTS[name]
    if name in ("add_n", "self"):
        with pytest.raises(FunctionRaised) as raised:
            made(as_code(body), name)
        assert first_words(str(raised.value)) == expected
    else:
        assert json.loads(made(as_code(body), name)) == expected


@pytest.mark.parametrize(("name", "body", "said"), REFUSED, ids=[one[0] for one in REFUSED])
def test_what_the_server_refuses_is_refused_in_its_words(name: str, body: str, said: str) -> None:
    with pytest.raises(FunctionError) as refused:
        (functions.check_function if name == "infinite" else parse_transform)(as_code(body), "transform")
    words = _SAID.search(said)
    if words is not None and not words[1].startswith("parse error"):
        assert str(refused.value) == words[1].replace('\\\\\\"', '"')


HEADS = {
    "def transform(action, record, changes, metadata, x) do\n1\nend": "The parameter list `action, record, changes, metadata` is required",
    "def transform(record, action, changes, metadata) do\n1\nend": "The parameter list `action, record, changes, metadata` is required",
    "def transform(a, r, c, m) do\n1\nend": "The parameter list `action, record, changes, metadata` is required",
    "def transform(action, record, changes, metadata \\\\ nil) do\n1\nend": "The parameter list `action, record, changes, metadata` is",
    'def transform(action, %{"id" => id}, changes, metadata) do\nid\nend': "The parameter list `action, record, changes, metadata` is",
    "defp transform(action, record, changes, metadata) do\n1\nend": "Expecting only `def transform`, `def route` or `def filter`",
    "def transform(action, record, changes, metadata) when is_map(record) do\n1\nend": "Expecting only `def transform`, `def route`",
    "def transform(action, record, changes, metadata) do\n1\nrescue\n_ -> 2\nend": "Expecting only `def transform`, `def route`",
    '@doc "x"\ndef transform(action, record, changes, metadata) do\n1\nend': "Expecting only `def transform`, `def route`",
    "def transform(action, record, changes, metadata) do\n1\nend\ndef transform(action, record, changes, metadata) do\n2\nend": (
        "Expecting only `def transform`, `def route` or `def filter` at the top level"
    ),
    "1": "Expecting only `def transform`, `def route` or `def filter` at the top level",
    "def transform(action, record do\n1": "parse error at [line: ",
    "def transform(_action, record, changes, metadata) do\n_action\nend": "code failed to evaluate: nofile: cannot compile file",
}


@pytest.mark.parametrize(("code", "said"), HEADS.items())
def test_a_head_that_the_server_refuses_is_refused_in_its_words(code: str, said: str) -> None:
    with pytest.raises(FunctionError) as refused:
        parse_transform(code, "transform")
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["transform", "filter", "route"])
def test_a_function_of_any_of_the_three_names_is_taken(name: str) -> None:
    assert made(f"def {name}(_action, _record, changes, metadata) do\n  record\nend", "x").startswith(b"{")
