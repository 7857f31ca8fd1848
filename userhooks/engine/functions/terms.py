"""Elixir's values: their representation in Python, order, equality, truthiness, and use as map keys. Pure.

| Elixir | Python |
|---|---|
| integer, float | int, float |
| true, false, nil | True, False, None |
| any other atom | `Atom` |
| binary | str, or bytes if it is not valid UTF-8 |
| list, tuple | list, tuple |
| map, struct | dict with keys from `as_key`; a struct has the key `STRUCT` |
| function; process or reference | `Closure`; `Opaque` |

Values are immutable. Functions that traverse a whole value take a meter, because a value can contain the same part many times.
Sources: the Erlang reference manual, 9.14 "Term Comparisons"; Elixir's documentation of Kernel, Access, and String.Chars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from userhooks.engine.functions.meter import Meter


class Raised(Exception):
    """An Elixir exception; `line` is where it was raised, once that is known."""

    line: int | None = None

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.line is None else f"{text} (line: {self.line})"


class Atom:
    """An atom other than true, false, and nil; there is only one object per name, so atoms can be compared with `is`."""

    __slots__ = ("__weakref__", "name")
    name: str
    _all: ClassVar[WeakValueDictionary[str, Atom]] = WeakValueDictionary()

    def __new__(cls, name: str) -> Atom:
        atom = cls._all.get(name)
        if atom is None:
            atom = object.__new__(cls)
            atom.name = name
            cls._all[name] = atom
        return atom

    def __repr__(self) -> str:
        return f"Atom({self.name!r})"


@dataclass(frozen=True, slots=True, eq=False)
class Closure:
    """An anonymous or captured function."""

    arity: int
    run: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) != self.arity:
            raise Raised(f"function with arity {self.arity} called with {_count(len(arguments))}")
        return self.run(*arguments)


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A process or a reference, which can only be compared."""

    kind: str


def _count(arguments: int) -> str:
    return f"{arguments} argument{'s' * (arguments != 1)}"


class Key:
    """A map key that Python would compare differently from Elixir, where 1, 1.0, and true are three different keys."""

    __slots__ = ("_token", "term")

    def __init__(self, term: Any, token: Any) -> None:
        self.term = term
        self._token = token

    def __hash__(self) -> int:
        return hash(self._token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._token == other._token


STRUCT = Atom("__struct__")
OK, ERROR = Atom("ok"), Atom("error")


def as_key(meter: Meter, term: Any) -> Any:
    """Return the dict key that represents a value."""
    kind = type(term)
    if kind is str or kind is Atom or kind is int:
        return term
    return Key(term, _token(meter, term))


def of_key(key: Any) -> Any:
    """Return the value that a dict key represents."""
    return key.term if type(key) is Key else key


def _token(meter: Meter, term: Any) -> Any:
    """Return a hashable token; the tokens of two values are equal if the values are identical (`===`)."""
    meter.spend()
    kind = type(term)
    if kind is list or kind is tuple:
        return (kind, *[_token(meter, item) for item in term])
    if kind is dict:
        return (kind, frozenset((key, _token(meter, value)) for key, value in term.items()))
    if kind is float:
        return (kind, term, str(term))  # 0.0 and -0.0 are different keys
    return (kind, term)


_NUMBER, _ATOM, _FUNCTION, _TUPLE, _MAP, _LIST, _BINARY = range(7)
_KINDS: dict[type, int] = {
    int: _NUMBER,
    float: _NUMBER,
    bool: _ATOM,
    type(None): _ATOM,
    Atom: _ATOM,
    Closure: _FUNCTION,
    Opaque: _FUNCTION,
    tuple: _TUPLE,
    dict: _MAP,
    list: _LIST,
    str: _BINARY,
    bytes: _BINARY,
}
_NAMES = {True: "true", False: "false", None: "nil"}


def compare(meter: Meter, a: Any, b: Any) -> int:
    """Compare two values in Elixir's term order; returns a negative number, 0, or a positive number.

    The order is number < atom < function < tuple < map < list < binary, then by value.
    """
    kind, other = _KINDS[type(a)], _KINDS[type(b)]
    if kind != other:
        return kind - other
    if kind == _NUMBER:
        return int(a > b) - int(a < b)
    if kind == _BINARY:
        meter.text(min(len(a), len(b)))
        if type(a) is not type(b):
            a, b = as_bytes(a), as_bytes(b)
        return int(a > b) - int(a < b)
    if kind == _ATOM:
        a, b = atom_name(a), atom_name(b)
        return int(a > b) - int(a < b)
    if kind in (_LIST, _TUPLE):
        if kind == _TUPLE and len(a) != len(b):
            return len(a) - len(b)
        for x, y in zip(a, b, strict=False):
            meter.spend()
            order = compare(meter, x, y)
            if order:
                return order
        return len(a) - len(b)
    if kind == _MAP:
        return _compare_maps(meter, a, b)
    return int(id(a) > id(b)) - int(id(a) < id(b))


def _compare_maps(meter: Meter, a: dict[Any, Any], b: dict[Any, Any]) -> int:
    """Compare by size, then by sorted keys (integers before floats), then by the values of the sorted keys."""
    if len(a) != len(b):
        return len(a) - len(b)
    keys, others = sorted_keys(meter, a), sorted_keys(meter, b)
    for key, other in zip(keys, others, strict=True):
        order = compare(meter, of_key(key), of_key(other)) or (type(of_key(key)) is float) - (type(of_key(other)) is float)
        if order:
            return order
    return compare(meter, [a[key] for key in keys], [b[key] for key in others])


class InOrder:
    """A sort key that compares values in Elixir's term order."""

    __slots__ = ("meter", "term")

    def __init__(self, meter: Meter, term: Any) -> None:
        self.meter = meter
        self.term = term

    def __lt__(self, other: InOrder) -> bool:
        self.meter.spend()
        return compare(self.meter, self.term, other.term) < 0


_METADATA_FIELDS = (
    "consumer id name annotations database hostname table_name commit_idx commit_lsn commit_timestamp idempotency_key table_schema "
    "transaction_annotations record_pks enrichment database_name"
)
_METADATA_ORDER = {name: i for i, name in enumerate(_METADATA_FIELDS.split())}
"""Positions of the fields of `metadata`, as recorded from Sequin: Elixir lists a map's atoms in the order in which they were created."""


def sorted_keys(meter: Meter, mapping: dict[Any, Any]) -> list[Any]:
    """Return a map's keys in the order in which Elixir lists them; atoms whose order is not known are sorted by name."""
    if all(type(key) is str for key in mapping):
        meter.spend(len(mapping))
        return sorted(mapping)
    meter.spend(2 * len(mapping))
    if all(isinstance(key, Atom) and key.name in _METADATA_ORDER for key in mapping):
        return sorted(mapping, key=lambda key: _METADATA_ORDER[key.name])
    return sorted(mapping, key=lambda key: _key_order(meter, key))


def _key_order(meter: Meter, key: Any) -> tuple[Any, ...]:
    kind = _KINDS[type(of_key(key))]
    if kind == _ATOM:
        return kind, atom_name(of_key(key))
    if kind == _NUMBER:
        return kind, of_key(key), type(of_key(key)) is float
    return (kind, as_bytes(of_key(key))) if kind == _BINARY else (kind, InOrder(meter, of_key(key)))


def equal(meter: Meter, a: Any, b: Any) -> bool:
    """Compare as `==` does: 1 equals 1.0, and otherwise values of different types are never equal."""
    kind = type(a)
    if kind is type(b):
        if kind is list or kind is tuple:
            meter.spend(len(a))
            return len(a) == len(b) and all(equal(meter, x, y) for x, y in zip(a, b, strict=True))
        if kind is dict:
            meter.spend(len(a))
            return a.keys() == b.keys() and all(equal(meter, value, b[key]) for key, value in a.items())
        return bool(a == b)
    return is_number(a) and is_number(b) and bool(a == b)


def identical(meter: Meter, a: Any, b: Any) -> bool:
    """Compare as `===` does: like `==`, except that 1 and 1.0 differ."""
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is list or kind is tuple:
        meter.spend(len(a))
        return len(a) == len(b) and all(identical(meter, x, y) for x, y in zip(a, b, strict=True))
    if kind is dict:
        meter.spend(len(a))
        return a.keys() == b.keys() and all(identical(meter, value, b[key]) for key, value in a.items())
    return bool(a == b)


def is_truthy(value: Any) -> bool:
    """Whether the value is truthy: anything except nil and false."""
    return value is not None and value is not False


def is_number(value: Any) -> bool:
    """Whether the value is an integer or a float."""
    return type(value) is int or type(value) is float


def is_atom(value: Any) -> bool:
    """Whether the value is an atom, including nil and the booleans."""
    return _KINDS[type(value)] == _ATOM


def is_binary(value: Any) -> bool:
    """Whether the value is a binary: a string or other bytes."""
    return type(value) is str or type(value) is bytes


def atom_name(value: Any) -> str:
    """Return the name of an atom."""
    return value.name if isinstance(value, Atom) else _NAMES[value]


_NAMED_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "nil": None}


def atom(name: str) -> Any:
    """Return the atom with a name; `true`, `false`, and `nil` are returned as True, False, and None."""
    return _NAMED_CONSTANTS[name] if name in _NAMED_CONSTANTS else Atom(name)


def as_bytes(binary: str | bytes) -> bytes:
    """Return the bytes of a binary."""
    return binary if isinstance(binary, bytes) else binary.encode(errors="surrogatepass")


def as_binary(raw: bytes) -> str | bytes:
    """Return bytes as a binary: a string if they are valid UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def struct_name(value: Any) -> str | None:
    """Return the name of the struct, like `DateTime`; None for any other value."""
    if type(value) is dict:
        module = value.get(STRUCT)
        if isinstance(module, Atom):
            return module.name.removeprefix("Elixir.")
    return None


def new_map(meter: Meter, pairs: Any) -> dict[Any, Any]:
    """Build a map from pairs; of two equal keys, the later one wins."""
    return {as_key(meter, key): value for key, value in pairs}


def pairs_of(meter: Meter, mapping: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """Return a map's pairs in the order in which Elixir lists them."""
    return [(of_key(key), mapping[key]) for key in sorted_keys(meter, mapping)]
