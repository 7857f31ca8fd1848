"""Decompress and parse request bodies: gzip, deflate, and JSON in each of its media types. Pure.

The parsed values are judged in judgement.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import orjson

from userhooks.shared.json_text import NotJson, parse

JUDGED_BYTES = 8 << 20
"""Maximum size of a body that is parsed; parsing longer bodies would delay the requests being received."""

_MOST_MEMBERS = 16
"""Maximum number of compressed members in one body."""

Judgement = dict[str, Any]
"""A finding about a request: `{"kind", "text"}`, with `"seq"` if it refers to another request.

Kinds: `secret`, `foreign`, `duplicate_of`, `late`, `out_of_order_with`, `body` (does not match its headers), and `unread` (could not be
judged).
"""

_Form = Literal["JSON", "NDJSON", "a JSON text sequence", ""]
_JSON = {"application/json", "text/json"}
_NDJSON = {
    f"application/{name}" for name in ("x-ndjson", "ndjson", "jsonl", "x-jsonl", "jsonlines", "x-jsonlines", "x-ldjson", "stream+json")
}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BOM = b"\xef\xbb\xbf"


class Values(NamedTuple):
    """The JSON values of a body, its problems, and whether an object in them repeats a name."""

    values: list[Any]
    problems: list[Judgement]
    repeated: bool


def unpacked_body(encodings: Sequence[str], body: bytes, limit: int) -> tuple[bytes | None, list[Judgement]]:
    """Decompress a gzip or deflate body to at most `limit` bytes, and return the result and the body's problems.

    The result is None if the body is not compressed or cannot be decompressed.
    """
    names = [name for value in encodings for name in value.lower().replace(" ", "").split(",") if name not in ("", "identity")]
    if not names or not body:
        return None, []
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        text = f"The inspector does not decompress this Content-Encoding: {', '.join(names)[:100]}."
        return None, [{"kind": "unread", "text": text}]
    name = names[0].removeprefix("x-")
    # "deflate" means the zlib format, but some senders omit its header.
    window = 31 if name == "gzip" else 15 if body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0 else -15
    content, rest, members = b"", body, 0
    while rest and len(content) < limit:
        members += 1
        if members > _MOST_MEMBERS:  # every member requires a copy of the remaining bytes
            return content, [
                {
                    "kind": "unread",
                    "text": f"The {name} body has more than {_MOST_MEMBERS} members. The others were not read.",
                }
            ]
        decompressor = zlib.decompressobj(wbits=window)
        try:
            content += decompressor.decompress(rest, limit - len(content))
        except zlib.error as error:
            text = f"The Content-Encoding says {name}, but the body is not {name} data: {error}."
            return content or None, [{"kind": "body", "text": text}]
        if len(content) < limit and not decompressor.eof:
            return content, [{"kind": "body", "text": f"The {name} data in the body is incomplete."}]
        rest = decompressor.unused_data
    return content, []


def json_values(content_types: Sequence[str], body: bytes) -> Values:
    """Parse a body as its JSON media type says.

    A body of any other type is tried as JSON and NDJSON, and the only problem reported for it is excessive size.
    """
    if not body:
        return Values([], [], repeated=False)
    if len(body) > JUDGED_BYTES:
        return Values([], [{"kind": "unread", "text": f"The body is larger than {JUDGED_BYTES >> 20} MB."}], repeated=False)
    form = _form(content_types)
    if form in ("JSON", ""):
        return _one_value(form, body)
    first, *texts = body.split(b"\n" if form == "NDJSON" else b"\x1e")
    values = _several(form, [first, *texts] if form == "NDJSON" else texts)
    if form != "NDJSON" and first.strip():
        text = f"The Content-Type says {form}, but the body does not start with a record separator (RS)."
        values.problems.append({"kind": "body", "text": text})
    return values


def _one_value(form: _Form, body: bytes) -> Values:
    problems: list[Judgement] = []
    if body.startswith(_BOM):
        body = body[len(_BOM) :]
        problems.append({"kind": "body", "text": "The body starts with a byte order mark, which JSON does not allow."})
    try:
        value, repeated = _parsed(body)
    except NotJson as error:
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) > 1 and not (several := _several("NDJSON", lines)).problems:
            text = "The body is NDJSON, one JSON value per line. Its Content-Type should be application/x-ndjson."
            return several._replace(problems=[{"kind": "body", "text": text}] if form else [])
        if not form:
            return Values([], [], repeated=False)
        return Values([], [{"kind": "body", "text": f"The Content-Type says JSON, but the body {_invalid(body, error)}"}], repeated=False)
    if repeated is not None:
        problems.append({"kind": "body", "text": _repetition(repeated)})
    return Values([value], problems if form else [], repeated is not None)


def _several(form: _Form, texts: Sequence[bytes]) -> Values:
    result = Values([], [], repeated=False)
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            value, repeated = _parsed(text)
        except NotJson as error:
            if not result.problems:
                part = "line" if form == "NDJSON" else "text"
                result.problems.append({"kind": "body", "text": f"The body is {form}, but its {part} {number} {_invalid(text, error)}"})
            continue
        result.values.append(value)
        if repeated is not None:
            result = result._replace(repeated=True)
    return result


def _parsed(text: bytes) -> tuple[Any, str | None]:
    try:
        value = orjson.loads(text)
        if orjson.dumps(value) == text:  # then no name was repeated, and no number was rounded
            return value, None
    except (ValueError, TypeError):
        pass
    try:
        return parse(text.decode())
    except UnicodeDecodeError as error:
        raise NotJson(f"JSON is UTF-8, and byte {error.start} is not") from None


def _invalid(body: bytes, error: NotJson) -> str:
    compression = next((name for magic, name in _MAGIC.items() if body.startswith(magic)), None)
    return f"is not valid JSON: {error}." if compression is None else f"is {compression} data without a Content-Encoding header."


def _repetition(name: str) -> str:
    return f"The name {name[:100]!r} occurs more than once in one object. Receivers may use any of its values, so each was judged."


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
