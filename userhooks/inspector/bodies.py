"""Bodies of requests unpacked and parsed: compression, media types, JSON in each of its forms. Pure.

What the values say of a request is judged in `judgement.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import orjson

from userhooks.shared.json_text import NotJson, parse

JUDGED_BYTES = 8 << 20
"""A longer body is not looked into: parsing it would hold up what is being received."""

_MOST_MEMBERS = 16
"""Compressed members of one body that are unpacked one after the other."""

Judgement = dict[str, Any]
"""`{"kind", "text"}` and, where another request is meant, its `"seq"`. Kinds: `secret`, `foreign`, `duplicate_of`, `late`,
`out_of_order_with`, `body` for a body that is not what it says, `unread` for one that could not be judged."""

_Form = Literal["JSON", "NDJSON", "a JSON text sequence", ""]
_JSON = {"application/json", "text/json"}
_NDJSON = {
    f"application/{name}" for name in ("x-ndjson", "ndjson", "jsonl", "x-jsonl", "jsonlines", "x-jsonlines", "x-ldjson", "stream+json")
}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BOM = b"\xef\xbb\xbf"


class Values(NamedTuple):
    """The JSON values of a body, what is wrong with it, and whether a name occurs more than once in an object of a value."""

    values: list[Any]
    problems: list[Judgement]
    repeated: bool


def unpacked_body(encodings: Sequence[str], body: bytes, limit: int) -> tuple[bytes | None, list[Judgement]]:
    """Unpack a gzip or deflate body to at most `limit` bytes; None for one that is not packed, or not unpacked."""
    names = [name for value in encodings for name in value.lower().replace(" ", "").split(",") if name not in ("", "identity")]
    if not names or not body:
        return None, []
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        text = f"The body is compressed ({', '.join(names)[:100]}), which the inspector does not unpack."
        return None, [{"kind": "unread", "text": text}]
    name = names[0].removeprefix("x-")
    # "deflate" means the zlib format; some senders leave its header out.
    window = 31 if name == "gzip" else 15 if body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0 else -15
    content, rest, members = b"", body, 0
    while rest and len(content) < limit:
        members += 1
        if members > _MOST_MEMBERS:  # each costs a copy of what follows it
            return content, [
                {"kind": "unread", "text": f"The {name} body has more than {_MOST_MEMBERS} members; only these were unpacked."}
            ]
        unpacking = zlib.decompressobj(wbits=window)
        try:
            content += unpacking.decompress(rest, limit - len(content))
        except zlib.error as error:
            text = f"The Content-Encoding says {name}, but the body is not {name} data: {error}."
            return content or None, [{"kind": "body", "text": text}]
        if len(content) < limit and not unpacking.eof:
            return content, [{"kind": "body", "text": f"The {name} body breaks off before its end."}]
        rest = unpacking.unused_data
    return content, []


def json_values(content_types: Sequence[str], body: bytes) -> Values:
    """Parse a body by its media type, or as JSON if the type is not a JSON type. Problems are reported for JSON types only."""
    if not body:
        return Values([], [], repeated=False)
    if len(body) > JUDGED_BYTES:
        return Values([], [{"kind": "unread", "text": f"The body is larger than {JUDGED_BYTES >> 20} MB."}], repeated=False)
    form = _form(content_types)
    if form in ("JSON", ""):
        return _one_value(form, body)
    first, *texts = body.split(b"\n" if form == "NDJSON" else b"\x1e")
    found = _several(form, [first, *texts] if form == "NDJSON" else texts)
    if form != "NDJSON" and first.strip():
        text = f"The Content-Type says {form}, but the body does not begin with the separator (RS) of one."
        found.problems.append({"kind": "body", "text": text})
    return found


def _one_value(form: _Form, body: bytes) -> Values:
    problems: list[Judgement] = []
    if body.startswith(_BOM):
        body = body[len(_BOM) :]
        problems.append({"kind": "body", "text": "The body begins with a byte order mark, which JSON must not."})
    try:
        value, repeated = _parsed(body)
    except NotJson as error:
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) > 1 and not (several := _several("NDJSON", lines)).problems:
            text = "The body is NDJSON, a JSON value on each line: its Content-Type should be application/x-ndjson."
            return several._replace(problems=[{"kind": "body", "text": text}] if form else [])
        if not form:
            return Values([], [], repeated=False)
        return Values([], [{"kind": "body", "text": f"The Content-Type says JSON, but the body {_invalid(body, error)}"}], repeated=False)
    if repeated is not None:
        problems.append({"kind": "body", "text": _twice(repeated)})
    return Values([value], problems if form else [], repeated is not None)


def _several(form: _Form, texts: Sequence[bytes]) -> Values:
    found = Values([], [], repeated=False)
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            value, repeated = _parsed(text)
        except NotJson as error:
            if not found.problems:
                part = "line" if form == "NDJSON" else "text"
                found.problems.append({"kind": "body", "text": f"The body is {form}, but its {part} {number} {_invalid(text, error)}"})
            continue
        found.values.append(value)
        if repeated is not None:
            found = found._replace(repeated=True)
    return found


def _parsed(text: bytes) -> tuple[Any, str | None]:
    try:
        value = orjson.loads(text)
        if orjson.dumps(value) == text:  # so no name was dropped and no number rounded
            return value, None
    except (ValueError, TypeError):
        pass
    try:
        return parse(text.decode())
    except UnicodeDecodeError as error:
        raise NotJson(f"JSON is UTF-8, and byte {error.start} is not") from None


def _invalid(body: bytes, error: NotJson) -> str:
    packed = next((name for magic, name in _MAGIC.items() if body.startswith(magic)), None)
    return f"is not valid JSON: {error}." if packed is None else f"is {packed} data, and no Content-Encoding says so."


def _twice(name: str) -> str:
    return f"The name {name[:100]!r} occurs more than once in one object. Receivers differ in which value they take; each was judged."


def _form(content_types: Sequence[str]) -> _Form:
    for content_type in content_types:
        media = content_type.partition(";")[0].strip().lower()
        if media in _NDJSON:
            return "NDJSON"
        if media.endswith(("/json-seq", "+json-seq")):
            return "a JSON text sequence"
        if media in _JSON or media.endswith("+json"):
            return "JSON"
    return ""
