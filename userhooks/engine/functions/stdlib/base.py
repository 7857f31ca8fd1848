"""Elixir's `Base`: encoding bytes as text, and decoding them. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import partial
from typing import Any

from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.stdlib.kernel import as_text, options
from userhooks.engine.functions.terms import ERROR, OK, Atom, Raised, as_binary, as_bytes, is_binary
from userhooks.engine.functions.text import inspect

Encode = Callable[[bytes], bytes]


def _encode(encode: Encode, upper: bool, meter: Meter, data: Any, opts: Any = ()) -> str:
    if not is_binary(data):
        raise Raised("no function clause matching")
    meter.text(2 * len(data))
    settings = options(list(opts))
    text = encode(as_bytes(data)).decode()
    if settings.get("padding") is False:
        text = text.rstrip("=")
    case = settings.get("case", Atom("upper"))
    return text.upper() if upper and case is Atom("upper") else text.lower() if upper else text


def _decode(decode: Encode, block: int, meter: Meter, data: Any, opts: Any = ()) -> Any:
    text = as_text(data)
    meter.text(len(text))
    settings = options(list(opts))
    if settings.get("ignore") is Atom("whitespace"):
        text = "".join(text.split())
    case = settings.get("case", Atom("upper"))
    if block in (1, 8):
        if (case is Atom("upper") and text != text.upper()) or (case is Atom("lower") and text != text.lower()):
            return ERROR
        text = text.upper()
    if settings.get("padding") is False and len(text) % block:
        text += "=" * (-len(text) % block)
    try:
        return OK, as_binary(decode(text.encode("ascii")))
    except (ValueError, binascii.Error):
        return ERROR


def _decode_bang(decode: Encode, block: int, meter: Meter, data: Any, opts: Any = ()) -> Any:
    answer = _decode(decode, block, meter, data, opts)
    if answer is ERROR:
        raise Raised(f"invalid text for this encoding: {inspect(data)}")
    return answer[1]


_CODECS: dict[str, tuple[Encode, Encode, int]] = {
    "16": (base64.b16encode, base64.b16decode, 1),
    "32": (base64.b32encode, base64.b32decode, 8),
    "hex32": (base64.b32hexencode, base64.b32hexdecode, 8),
    "64": (base64.b64encode, partial(base64.b64decode, validate=True), 4),
    "url": (base64.urlsafe_b64encode, lambda raw: base64.b64decode(raw, altchars=b"-_", validate=True), 4),
}
_NAMES = {"16": "{}16", "32": "{}32", "hex32": "hex_{}32", "64": "{}64", "url": "url_{}64"}
FUNCTIONS: dict[str, Callable[..., Any]] = {}
for _codec, (_encoder, _decoder, _block) in _CODECS.items():
    FUNCTIONS[_NAMES[_codec].format("encode")] = partial(_encode, _encoder, _block in (1, 8))
    FUNCTIONS[_NAMES[_codec].format("decode")] = partial(_decode, _decoder, _block)
    FUNCTIONS[_NAMES[_codec].format("decode") + "!"] = partial(_decode_bang, _decoder, _block)
