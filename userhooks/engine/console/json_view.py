"""JSON as indented, colored pieces of text, for the console. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SYMBOL = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
_INDENT = "  "


def pieces(text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) pairs of the indented JSON; kinds are `key`, `string`, `number`, `word`, and the empty string for the rest.

    Strings and numbers are kept as they are written, so that numbers keep all their digits.
    """
    depth = 0
    symbols = _SYMBOL.findall(text)
    for at, symbol in enumerate(symbols):
        following = symbols[at + 1] if at + 1 < len(symbols) else ""
        match symbol:
            case "{" | "[":
                depth += 1
                yield "", symbol if following in ("}", "]") else f"{symbol}\n{_INDENT * depth}"
            case "}" | "]":
                depth -= 1
                yield "", symbol if symbols[at - 1] in ("{", "[") else f"\n{_INDENT * depth}{symbol}"
            case ",":
                yield "", f",\n{_INDENT * depth}"
            case ":":
                yield "", ": "
            case "true" | "false" | "null":
                yield "word", symbol
            case _ if not symbol.startswith('"'):
                yield "number", symbol
            case _:
                yield "key" if following == ":" else "string", symbol
