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
    """Return the struct of a regular expression; raises Raised if it is not one."""
    try:
        compile_regex(source, flags)
    except BadRegex as exc:
        raise Raised(f"invalid regular expression {inspect(source)}: {exc}") from exc
    return structs.make("Regex", source=source, opts=flags)


def is_regex(value: Any) -> bool:
    """Whether the value is a regular expression."""
    return struct_name(value) == "Regex"


def regex_of(value: Any) -> Regex:
    """Return the regular expression of a struct."""
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
    found = [letters.get(one.name) if isinstance(one, Atom) else None for one in opts] if isinstance(opts, list) else [None]
    if None in found:
        raise Raised(f"no options of a regular expression: {inspect(opts)}")
    return "".join(letter for letter in found if letter is not None)


def compile_(meter: Meter, source: Any, opts: Any = "") -> Any:
    try:
        return OK, make(as_text(source), _flags(opts))
    except Raised as exc:
        return ERROR, (str(exc), 0)


def compile_bang(meter: Meter, source: Any, opts: Any = "") -> Any:
    return make(as_text(source), _flags(opts))


def match(meter: Meter, regex: Any, text: Any) -> bool:
    return regex_of(regex).search(meter, as_text(text)) is not None


def _captured(meter: Meter, regex: Regex, found: Found, opts: dict[str, Any]) -> list[Any]:
    wanted = opts.get("capture", Atom("all"))
    if isinstance(wanted, Atom):
        if wanted.name == "all":
            numbers = list(range(len(found.spans)))
            while len(numbers) > 1 and found.spans[numbers[-1]] is None:
                numbers.pop()
        elif wanted.name == "first":
            numbers = [0]
        elif wanted.name in ("all_but_first", "none"):
            numbers = list(range(1, len(found.spans))) if wanted.name == "all_but_first" else []
            while numbers and found.spans[numbers[-1]] is None:
                numbers.pop()
        else:
            numbers = [regex.names[name] for name in sorted(regex.names)]
    elif isinstance(wanted, list):
        numbers = [one if type(one) is int else regex.names.get(to_string(meter, one), len(found.spans)) for one in wanted]
    else:
        raise Raised("argument error")
    if opts.get("return") is Atom("index"):
        return [_index(found, number) for number in numbers]
    return [found.group(number) or "" for number in numbers]


def _index(found: Found, number: int) -> tuple[int, int]:
    span = found.spans[number] if 0 <= number < len(found.spans) else None
    if span is None:
        return -1, 0
    return len(as_bytes(found.text[: span[0]])), len(as_bytes(found.text[span[0] : span[1]]))


def run(meter: Meter, regex: Any, text: Any, opts: Any = ()) -> Any:
    compiled = regex_of(regex)
    found = compiled.search(meter, as_text(text))
    return None if found is None else _captured(meter, compiled, found, options(list(opts)))


def named_captures(meter: Meter, regex: Any, text: Any, opts: Any = ()) -> Any:
    compiled = regex_of(regex)
    found = compiled.search(meter, as_text(text))
    return None if found is None else {name: found.group(number) or "" for name, number in compiled.names.items()}


def scan(meter: Meter, regex: Any, text: Any, opts: Any = ()) -> Any:
    compiled = regex_of(regex)
    return [_captured(meter, compiled, found, options(list(opts))) for found in compiled.all(meter, as_text(text))]


def replace(meter: Meter, regex: Any, text: Any, replacement: Any, opts: Any = ()) -> str:
    compiled, whole = regex_of(regex), as_text(text)
    once = options(list(opts)).get("global") is False
    first = compiled.search(meter, whole) if once else None
    matches = ([] if first is None else [first]) if once else compiled.all(meter, whole)
    parts: list[str] = []
    at = 0
    for found in matches:
        start, end = found.spans[0] or (0, 0)
        new = _replacement(meter, replacement, found)
        meter.text(len(new))
        parts += [whole[at:start], new]
        at = end
    return "".join([*parts, whole[at:]])


def _replacement(meter: Meter, replacement: Any, found: Found) -> str:
    if isinstance(replacement, Closure):
        groups = [found.group(number) or "" for number in range(replacement.arity)]
        return as_text(to_string(meter, replacement(*groups)))
    template = as_text(replacement)
    parts: list[str] = []
    at = 0
    while at < len(template):
        if template[at] != "\\" or at + 1 == len(template):
            parts.append(template[at])
            at += 1
        elif template[at + 1].isdecimal():
            parts.append(found.group(int(template[at + 1])) or "")
            at += 2
        elif template.startswith("\\g{", at) and "}" in template[at:]:
            to = template.index("}", at)
            number = template[at + 3 : to]
            parts.append((found.group(int(number)) if number.isdecimal() else "") or "")
            at = to + 1
        else:
            parts.append(template[at + 1] if template[at + 1] == "\\" else template[at : at + 2])
            at += 2
    return "".join(parts)


def split(meter: Meter, regex: Any, text: Any, opts: Any = ()) -> list[str]:
    compiled, whole = regex_of(regex), as_text(text)
    found_options = options(list(opts))
    most = found_options.get("parts", Atom("infinity"))
    trim, keep = found_options.get("trim") is True, found_options.get("include_captures") is True
    if whole == "":
        return [] if trim else [""]
    parts: list[str] = []
    at = 0
    for found in compiled.all(meter, whole):
        start, end = found.spans[0] or (0, 0)
        if type(most) is int and len(parts) + 1 >= most:
            break
        if end == 0 and start == 0:
            parts += [] if trim else [""]
            continue
        if not (trim and start == at):
            parts.append(whole[at:start])
        parts += [whole[start:end]] if keep else []
        at = end
    rest = whole[at:]
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
