"""Elixir's `Regex`. Pure."""

from __future__ import annotations

from typing import Any

from userhooks.engine.functions import structs
from userhooks.engine.functions.meter import Meter
from userhooks.engine.functions.pcre import BadRegex, Found, Regex, compile_regex
from userhooks.engine.functions.stdlib.kernel import as_text, options
from userhooks.engine.functions.terms import ERROR, OK, Atom, Closure, Raised, as_bytes, struct_name
from userhooks.engine.functions.text import inspect, to_string

_SOURCE, _OPTIONS = Atom("source"), Atom("opts")


def make(source: str, flags: str) -> dict[Any, Any]:
    """Compile a regular expression and return its struct; raises Raised if it is invalid."""
    try:
        compile_regex(source, flags)
    except BadRegex as exc:
        raise Raised(f"invalid regular expression {inspect(source)}: {exc}") from exc
    return structs.make("Regex", source=source, opts=flags)


def is_regex(value: Any) -> bool:
    """Whether the value is a Regex struct."""
    return struct_name(value) == "Regex"


def regex_of(value: Any) -> Regex:
    """Return the compiled regular expression of a Regex struct; raises Raised for any other value."""
    if not is_regex(value) or not isinstance(value.get(_SOURCE), str) or not isinstance(value.get(_OPTIONS), str):
        raise Raised(f"no function clause matching: expected a regular expression, got:\n\n    {inspect(value)}\n")
    try:
        return compile_regex(value[_SOURCE], value[_OPTIONS])
    except BadRegex as exc:
        raise Raised(f"invalid regular expression: {exc}") from exc


def _flags(opts: Any) -> str:
    if isinstance(opts, str):
        return opts
    letters = {"caseless": "i", "multiline": "m", "dotall": "s", "extended": "x", "unicode": "u", "firstline": "f", "ungreedy": "U"}
    flags = [letters.get(opt.name) if isinstance(opt, Atom) else None for opt in opts] if isinstance(opts, list) else [None]
    if None in flags:
        raise Raised(f"invalid options for a regular expression: {inspect(opts)}")
    return "".join(letter for letter in flags if letter is not None)


def compile_(meter: Meter, source: Any, opts: Any = "") -> Any:
    try:
        return OK, make(as_text(source), _flags(opts))
    except Raised as exc:
        return ERROR, (str(exc), 0)


def compile_bang(meter: Meter, source: Any, opts: Any = "") -> Any:
    return make(as_text(source), _flags(opts))


def match(meter: Meter, regex: Any, text: Any) -> bool:
    return regex_of(regex).search(meter, as_text(text)) is not None


def _captured(meter: Meter, regex: Regex, matched: Found, opts: dict[str, Any]) -> list[Any]:
    selection = opts.get("capture", Atom("all"))
    if isinstance(selection, Atom):
        if selection.name == "all":
            numbers = list(range(len(matched.spans)))
            while len(numbers) > 1 and matched.spans[numbers[-1]] is None:
                numbers.pop()
        elif selection.name == "first":
            numbers = [0]
        elif selection.name in ("all_but_first", "none"):
            numbers = list(range(1, len(matched.spans))) if selection.name == "all_but_first" else []
            while numbers and matched.spans[numbers[-1]] is None:
                numbers.pop()
        else:
            numbers = [regex.names[name] for name in sorted(regex.names)]
    elif isinstance(selection, list):
        numbers = [group if type(group) is int else regex.names.get(to_string(meter, group), len(matched.spans)) for group in selection]
    else:
        raise Raised("argument error")
    if opts.get("return") is Atom("index"):
        return [_index(matched, number) for number in numbers]
    return [matched.group(number) or "" for number in numbers]


def _index(matched: Found, number: int) -> tuple[int, int]:
    span = matched.spans[number] if 0 <= number < len(matched.spans) else None
    if span is None:
        return -1, 0
    return len(as_bytes(matched.text[: span[0]])), len(as_bytes(matched.text[span[0] : span[1]]))


def run(meter: Meter, regex: Any, text: Any, opts: Any = ()) -> Any:
    compiled = regex_of(regex)
    matched = compiled.search(meter, as_text(text))
    return None if matched is None else _captured(meter, compiled, matched, options(list(opts)))


def named_captures(meter: Meter, regex: Any, text: Any, opts: Any = ()) -> Any:
    compiled = regex_of(regex)
    matched = compiled.search(meter, as_text(text))
    return None if matched is None else {name: matched.group(number) or "" for name, number in compiled.names.items()}


def scan(meter: Meter, regex: Any, text: Any, opts: Any = ()) -> Any:
    compiled = regex_of(regex)
    return [_captured(meter, compiled, matched, options(list(opts))) for matched in compiled.all(meter, as_text(text))]


def replace(meter: Meter, regex: Any, text: Any, replacement: Any, opts: Any = ()) -> str:
    compiled, whole = regex_of(regex), as_text(text)
    once = options(list(opts)).get("global") is False
    first = compiled.search(meter, whole) if once else None
    matches = ([] if first is None else [first]) if once else compiled.all(meter, whole)
    parts: list[str] = []
    position = 0
    for matched in matches:
        start, end = matched.spans[0] or (0, 0)
        new = _replacement(meter, replacement, matched)
        meter.text(len(new))
        parts += [whole[position:start], new]
        position = end
    return "".join([*parts, whole[position:]])


def _replacement(meter: Meter, replacement: Any, matched: Found) -> str:
    if isinstance(replacement, Closure):
        groups = [matched.group(number) or "" for number in range(replacement.arity)]
        return as_text(to_string(meter, replacement(*groups)))
    template = as_text(replacement)
    parts: list[str] = []
    position = 0
    while position < len(template):
        if template[position] != "\\" or position + 1 == len(template):
            parts.append(template[position])
            position += 1
        elif template[position + 1].isdecimal():
            parts.append(matched.group(int(template[position + 1])) or "")
            position += 2
        elif template.startswith("\\g{", position) and "}" in template[position:]:
            stop = template.index("}", position)
            number = template[position + 3 : stop]
            parts.append((matched.group(int(number)) if number.isdecimal() else "") or "")
            position = stop + 1
        else:
            parts.append(template[position + 1] if template[position + 1] == "\\" else template[position : position + 2])
            position += 2
    return "".join(parts)


def split(meter: Meter, regex: Any, text: Any, opts: Any = ()) -> list[str]:
    compiled, whole = regex_of(regex), as_text(text)
    settings = options(list(opts))
    limit = settings.get("parts", Atom("infinity"))
    trim, include_captures = settings.get("trim") is True, settings.get("include_captures") is True
    if whole == "":
        return [] if trim else [""]
    parts: list[str] = []
    position = 0
    for matched in compiled.all(meter, whole):
        start, end = matched.spans[0] or (0, 0)
        if type(limit) is int and len(parts) + 1 >= limit:
            break
        if end == 0 and start == 0:
            parts += [] if trim else [""]
            continue
        if not (trim and start == position):
            parts.append(whole[position:start])
        parts += [whole[start:end]] if include_captures else []
        position = end
    rest = whole[position:]
    return parts + ([] if trim and rest == "" else [rest])


_SPECIAL = set(".^$*+?()[]{}|#-\\\t\n\v\f\r ")


def escape(meter: Meter, text: Any) -> str:
    meter.text(2 * len(as_text(text)))
    return "".join("\\" + character if character in _SPECIAL else character for character in text)


def names(meter: Meter, regex: Any) -> list[str]:
    return sorted(regex_of(regex).names)


FUNCTIONS = {
    "compile": compile_,
    "compile!": compile_bang,
    "match?": match,
    "run": run,
    "named_captures": named_captures,
    "scan": scan,
    "replace": replace,
    "split": split,
    "escape": escape,
    "names": names,
    "source": lambda meter, regex: regex_of(regex).source,
    "opts": lambda meter, regex: regex_of(regex).options,
}
