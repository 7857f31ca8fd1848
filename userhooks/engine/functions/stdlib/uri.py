"""Elixir's `URI`. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from userhooks.engine.functions import structs
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.enum import items_of
from userhooks.engine.functions.stdlib.kernel import as_integer, as_text
from userhooks.engine.functions.structs import DEFAULT_PORTS, URI_FIELDS, uri_text
from userhooks.engine.functions.terms import ERROR, OK, Atom, Closure, Raised, as_binary, as_bytes, is_truthy, struct_name
from userhooks.engine.functions.text import inspect, to_string

_PARTS = re.compile(r"(?:([a-zA-Z][a-zA-Z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL | re.ASCII).fullmatch
_AUTHORITY = re.compile(r"(?:(.*)@)?(\[[a-zA-Z0-9:.]*\]|[^:]*)(?::(\d*))?", re.DOTALL | re.ASCII).fullmatch
_UNRESERVED = "~"
_RESERVED = ":/?#[]@!$&'()*+,;="
_ALLOWED = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*", re.ASCII).fullmatch


def parse(meter: Meter, text: Any) -> Any:
    if struct_name(text) == "URI":
        return text
    match = _PARTS(as_text(text))
    scheme, authority, path, query, fragment = match.groups() if match else (None, None, text, None, None)
    userinfo = host = port = None
    if authority is not None:
        split = _AUTHORITY(authority)
        userinfo, host, digits = split.groups() if split else (None, authority, None)
        host = host.removeprefix("[").removesuffix("]")
        port = int(digits[:6]) if digits else None
    scheme = scheme.lower() if scheme else None
    return structs.make(
        "URI",
        scheme=scheme,
        authority=authority,
        userinfo=userinfo,
        host=host,
        port=DEFAULT_PORTS.get(scheme or "") if port is None else port,
        path=path or None,
        query=query,
        fragment=fragment,
    )


def new(meter: Meter, text: Any) -> Any:
    if struct_name(text) == "URI":
        return OK, text
    invalid = next((letter for letter in _read(meter, text) if not _ALLOWED(letter)), None)
    return (OK, parse(meter, text)) if invalid is None else (ERROR, invalid)


def new_bang(meter: Meter, text: Any) -> Any:
    answer = new(meter, text)
    if answer[0] is ERROR:
        raise Raised(f"cannot parse due to reason invalid_uri: {inspect(answer[1])}")
    return answer[1]


def _read(meter: Meter, text: Any) -> str:
    """Return a string after spending the steps for traversing its characters."""
    meter.spend(len(as_text(text)) // 8)
    return str(text)


def encode(meter: Meter, text: Any, predicate: Any = None) -> str:
    text = _read(meter, text)
    if isinstance(predicate, Closure):
        return "".join(chr(byte) if is_truthy(predicate(byte)) else f"%{byte:02X}" for byte in text.encode())
    return quote(text, safe=_UNRESERVED + _RESERVED)


def encode_www_form(meter: Meter, text: Any) -> str:
    return quote(_read(meter, text), safe=_UNRESERVED + " ").replace(" ", "+")


def decode(meter: Meter, text: Any) -> Any:
    return as_binary(unquote_to_bytes(_read(meter, text)))


def decode_www_form(meter: Meter, text: Any) -> Any:
    return decode(meter, as_text(text).replace("+", " "))


def encode_query(meter: Meter, enumerable: Any, encoding: Any = Atom("www_form")) -> str:
    def text_of(value: Any) -> str:
        if type(value) is list:
            raise Raised(f"encode_query/2 values cannot be lists, got: {inspect(value)}")
        text = as_text(to_string(meter, value))
        return quote(text, safe=_UNRESERVED) if encoding is Atom("rfc3986") else encode_www_form(meter, text)

    pairs = items_of(meter, enumerable)
    if not all(type(pair) is tuple and len(pair) == 2 for pair in pairs):
        raise Raised("no function clause matching in URI.encode_query/2")
    return "&".join(f"{text_of(key)}={text_of(value)}" for key, value in pairs)


def decode_query(meter: Meter, text: Any, into: Any = None, encoding: Any = Atom("www_form")) -> Any:
    result: dict[Any, Any] = {} if into is None else dict(into)
    read = decode if encoding is Atom("rfc3986") else decode_www_form
    for part in _read(meter, text).split("&"):
        meter.spend(2)
        if part:
            key, _, value = part.partition("=")
            result[read(meter, key)] = read(meter, value)
    return result


def query_decoder(meter: Meter, text: Any) -> Any:
    parts = [part.partition("=") for part in _read(meter, text).split("&") if part]
    return [(decode_www_form(meter, key), decode_www_form(meter, value)) for key, _, value in parts]


def merge(meter: Meter, base: Any, relative: Any) -> Any:
    uris = parse(meter, base), parse(meter, relative)
    target, reference = ({name: uri[Atom(name)] for name in URI_FIELDS} for uri in uris)
    if target["host"] is None:
        raise Raised("you must merge onto an absolute URI")
    if reference["scheme"] is not None:
        return structs.make("URI", **{**reference, "path": _without_dots(reference["path"])})
    if reference["host"] is not None:
        return structs.make("URI", **{**reference, "scheme": target["scheme"], "path": _without_dots(reference["path"])})
    if reference["path"] is None:
        query = target["query"] if reference["query"] is None else reference["query"]
        return structs.make("URI", **{**target, "query": query, "fragment": reference["fragment"]})
    path = reference["path"] if reference["path"].startswith("/") else (target["path"] or "/").rpartition("/")[0] + "/" + reference["path"]
    return structs.make("URI", **{**target, "path": _without_dots(path), "query": reference["query"], "fragment": reference["fragment"]})


def _without_dots(path: str | None) -> str | None:
    if path is None:
        return None
    kept: list[str] = []
    parts = path.split("/")
    for part in parts:
        if part == "..":
            if len(kept) > 1:
                kept.pop()
        elif part != ".":
            kept.append(part)
    if parts[-1] in (".", "..") and kept[-1:] != [""]:
        kept.append("")
    return "/".join(kept)


def append_path(meter: Meter, uri: Any, path: Any) -> Any:
    if not as_text(path).startswith("/") or path.startswith("//"):
        raise Raised(f'path must start with "/", got: {inspect(path)}')
    if struct_name(uri) != "URI":
        raise Raised("no function clause matching in URI.append_path/2")
    return {**uri, Atom("path"): (uri[Atom("path")] or "").removesuffix("/") + path}


def append_query(meter: Meter, uri: Any, query: Any) -> Any:
    if struct_name(uri) != "URI":
        raise Raised("no function clause matching in URI.append_query/2")
    present = uri[Atom("query")]
    return {**uri, Atom("query"): as_text(query) if present in (None, "") else present.removesuffix("&") + "&" + as_text(query)}


def _is_character(test: str) -> Any:
    def run(meter: Meter, character: Any) -> bool:
        letter = chr(as_integer(character)) if 0 <= as_integer(character) < 128 else ""
        unreserved = bool(letter) and (letter.isalnum() or letter in "-._~")
        reserved = bool(letter) and letter in _RESERVED
        return {"reserved": reserved, "unreserved": unreserved}.get(test, reserved or unreserved)

    return run


FUNCTIONS = {
    "parse": parse,
    "new": new,
    "new!": new_bang,
    "encode": encode,
    "encode_www_form": encode_www_form,
    "encode_query": encode_query,
    "decode": decode,
    "decode_www_form": decode_www_form,
    "decode_query": decode_query,
    "query_decoder": query_decoder,
    "merge": merge,
    "append_path": append_path,
    "append_query": append_query,
    "to_string": lambda meter, uri: uri_text(uri) if struct_name(uri) == "URI" else as_bytes(as_text(uri)).decode(),
    "default_port": lambda meter, scheme: DEFAULT_PORTS.get(as_text(scheme)),
    "char_reserved?": _is_character("reserved"),
    "char_unreserved?": _is_character("unreserved"),
    "char_unescaped?": _is_character("unescaped"),
}
