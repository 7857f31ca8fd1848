"""Text forms of values: `to_string` and `inspect`. Pure."""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions import structs
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.terms import Atom, Closure, Opaque, Raised, atom_name, is_number, of_key, sorted_keys, struct_name

_WITHOUT_TEXT = {tuple: "Tuple", Closure: "Function", Opaque: "PID"}


def to_string(meter: Meter, value: Any) -> Any:
    """Convert a value to a string, as Elixir's `to_string` does; raises Raised for a value without a text form, like a map.

    nil becomes the empty string. A list may contain only characters and strings.
    """
    kind = type(value)
    if kind is str or kind is bytes:
        return value
    if value is None:
        return ""
    if kind is int:
        meter.digits(value.bit_length())
        return str(value)
    if kind is float:
        return float_text(value)
    if kind is list:
        return joined(meter, value)
    if kind is dict:
        text = structs.text_of(value)
        if text is not None:
            return text
        raise Raised(no_protocol("String.Chars", "Map", value))
    if kind in _WITHOUT_TEXT:
        raise Raised(no_protocol("String.Chars", _WITHOUT_TEXT[kind], value))
    return atom_name(value)


def no_protocol(protocol: str, kind: str, value: Any) -> str:
    """Return Elixir's message for a value that does not implement a protocol."""
    name = struct_name(value)
    kind_name = kind if name is None else f"{name} (a struct)"
    return f"protocol {protocol} not implemented for {kind_name}\n\nGot value:\n\n    {inspect(value)}\n"


def joined(meter: Meter, value: Any) -> str:
    """Concatenate characters, strings, and nested lists of them; raises Raised for any other item."""
    parts: list[str] = []

    def add(item: Any) -> None:
        meter.spend()
        if isinstance(item, str):
            meter.text(len(item))
            parts.append(item)
        elif isinstance(item, list):
            for element in item:
                add(element)
        elif type(item) is int and 0 <= item <= 0x10FFFF and not 0xD800 <= item <= 0xDFFF:
            parts.append(chr(item))
        else:
            raise Raised(
                f"cannot convert the given list to a string.\n\nTo be converted to a string, a list must either be empty or only "
                f"contain the following elements:\n\n  * strings\n  * integers representing Unicode code points\n  * a list "
                f"containing one of these three elements\n\nPlease check the given list or call inspect/1 to get the list "
                f"representation, got:\n\n{inspect(value)}\n"
            )

    add(value)
    return "".join(parts)


def float_text(value: float) -> str:
    """Return the shortest digits that parse back to the float, as Erlang/OTP 25 writes them.

    Scientific notation is used if it is shorter, or if the absolute value is at least 2^53.
    """
    mantissa, _, exponent = f"{value!r}e0".partition("e")
    sign = "-" * mantissa.startswith("-")
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    point = len(whole) + int(exponent.partition("e")[0])
    unpadded = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(unpadded)
    digits = unpadded.rstrip("0")
    if not digits:
        return sign + "0.0"
    scientific = f"{digits[0]}.{digits[1:] or '0'}e{point - 1}"
    if point <= 0:
        plain = "0." + "0" * -point + digits
    elif point >= len(digits):
        plain = digits.ljust(point, "0") + ".0"
    else:
        return sign + digits[:point] + "." + digits[point:]
    if point == 0 or (len(plain) <= len(scientific) and abs(value) < 2**53):
        return sign + plain
    return sign + scientific


_MAX_SHOWN = 400
"""Maximum length of a value in an error message, in characters."""


def inspect(value: Any) -> str:
    """Format a value for an error message as Elixir's `inspect` does, truncated; an unpaired surrogate becomes `?`."""
    text = _Inspection().of(value).encode(errors="replace").decode()
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


class _Inspection:
    """Formats one value, stopping once the text is long enough."""

    def __init__(self) -> None:
        self._left = _MAX_SHOWN
        self._meter = Meter()

    def of(self, value: Any) -> str:
        text = self._text(value)
        self._left -= len(text)
        return text

    def _text(self, value: Any) -> str:
        if self._left <= 0:
            return "..."
        if isinstance(value, str):
            return quoted(value[:_MAX_SHOWN])
        if isinstance(value, bytes):
            return f"<<{', '.join(map(str, value[:_MAX_SHOWN]))}>>"
        if isinstance(value, float):
            return float_text(value)
        if is_number(value):
            return str(value) if value.bit_length() < 2000 else "a very large integer"
        if isinstance(value, list):
            return self._list(value)
        if isinstance(value, tuple):
            return "{" + ", ".join(self._items(value)) + "}"
        if isinstance(value, dict):
            return self._map(value)
        if isinstance(value, Atom):
            return atom_text(value.name)
        if isinstance(value, Closure):
            return f"#Function<{value.arity}>"
        if isinstance(value, Opaque):
            return f"#{value.kind}<>"
        return atom_name(value)

    def _items(self, values: Any) -> list[str]:
        texts = []
        for value in values:
            texts.append(self.of(value))
            if self._left <= 0:
                break
        return texts

    def _list(self, value: list[Any]) -> str:
        if value and all(isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Atom) for item in value[:_MAX_SHOWN]):
            return "[" + ", ".join(f"{key.name}: {self.of(item)}" for key, item in value[:_MAX_SHOWN]) + "]"
        if value and all(type(item) is int and (32 <= item < 127 or item in (9, 10, 13)) for item in value[:_MAX_SHOWN]):
            return '~c"' + quoted("".join(map(chr, value[:_MAX_SHOWN])))[1:]
        return "[" + ", ".join(self._items(value)) + "]"

    def _map(self, value: dict[Any, Any]) -> str:
        struct_text = structs.inspected(value)
        if struct_text is not None:
            return struct_text
        name = struct_name(value) or ""
        keys = [key for key in sorted_keys(self._meter, value)[:_MAX_SHOWN] if not name or of_key(key) != Atom("__struct__")]
        if all(isinstance(key, Atom) for key in keys):
            members = [f"{key.name}: {self.of(value[key])}" for key in keys]
        else:
            members = [f"{self.of(of_key(key))} => {self.of(value[key])}" for key in keys]
        return f"%{name}{{" + ", ".join(members) + "}"


def quoted(text: str) -> str:
    """Quote a string as Elixir's `inspect` does."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return '"' + escaped.replace("#{", "\\#{").replace("\0", "\\0") + '"'


def atom_text(name: str) -> str:
    """Format an atom as Elixir's `inspect` does."""
    if name.startswith("Elixir."):
        return name.removeprefix("Elixir.")
    return ":" + (name if name.replace("?", "a").replace("!", "a").replace("@", "a").isidentifier() else quoted(name))
