"""Elixir's values: which Python value stands for which, their order, equality and truth, and how they are used as keys. Pure.

| Elixir | Python |
|---|---|
| integer, float | int, float |
| true, false, nil | True, False, None |
| any other atom | `Atom` |
| binary | str; bytes if it is not UTF-8 |
| list, tuple | list, tuple |
| map, struct | dict whose keys are made by `as_key`; a struct has the key `STRUCT` |
| function; process or reference | `Closure`; `Opaque` |

Values are never changed once they are made. Whatever walks through a whole value takes a meter, since a value can hold another many times.
Sources: the Erlang reference manual, 9.14 "Term Comparisons"; Elixir's documentation of Kernel, Access and String.Chars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from userhooks.engine.functions.meter import Meter


class Raised(Exception):
    """What Elixir would raise; `line` is where, once it is known."""

    line: int | None = None

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.line is None else f"{text} (line: {self.line})"


class Atom:
    """An atom other than true, false and nil: one object for each name, for as long as it is used."""

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
    """A value that can be compared and nothing else: a process or a reference."""

    kind: str


def _count(arguments: int) -> str:
    return f"{arguments} argument{'s' * (arguments != 1)}"


class Key:
    """A key of a map for which Python's equality is not Elixir's: 1.0 is not 1, nor is true."""

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
    """Return what stands for a value as the key of a map."""
    kind = type(term)
    if kind is str or kind is Atom or kind is int:
        return term
    return Key(term, _token(meter, term))


def of_key(key: Any) -> Any:
    """Return the value that a key of a map stands for."""
    return key.term if type(key) is Key else key


def _token(meter: Meter, term: Any) -> Any:
    """Return something that is equal to another one if the values are the same to `===`."""
    meter.spend()
    kind = type(term)
    if kind is list or kind is tuple:
        return (kind, *[_token(meter, item) for item in term])
    if kind is dict:
        return (kind, frozenset((key, _token(meter, value)) for key, value in term.items()))
    if kind is float:
        return (kind, term, str(term))  # 0.0 and -0.0 are two keys
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
    """Return a negative number, 0 or a positive number: number < atom < function < tuple < map < list < binary, then by value."""
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
    """By size, then by keys in order (integers before floats), then by the values of the keys in order."""
    if len(a) != len(b):
        return len(a) - len(b)
    keys, others = sorted_keys(meter, a), sorted_keys(meter, b)
    for key, other in zip(keys, others, strict=True):
        order = compare(meter, of_key(key), of_key(other)) or (type(of_key(key)) is float) - (type(of_key(other)) is float)
        if order:
            return order
    return compare(meter, [a[key] for key in keys], [b[key] for key in others])


class InOrder:
    """Sorts a value among others in Elixir's order."""

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
"""Elixir lists the atoms of a map in the order in which the server first saw them; for those of `metadata` this is the recorded one"""


def sorted_keys(meter: Meter, of: dict[Any, Any]) -> list[Any]:
    """Return a map's keys in the order in which Elixir lists them, atoms by name where their order is not known."""
    if all(type(key) is str for key in of):
        meter.spend(len(of))
        return sorted(of)
    meter.spend(2 * len(of))
    if all(isinstance(key, Atom) and key.name in _METADATA_ORDER for key in of):
        return sorted(of, key=lambda key: _METADATA_ORDER[key.name])
    return sorted(of, key=lambda key: _key_order(meter, key))


def _key_order(meter: Meter, key: Any) -> tuple[Any, ...]:
    kind = _KINDS[type(of_key(key))]
    if kind == _ATOM:
        return kind, atom_name(of_key(key))
    if kind == _NUMBER:
        return kind, of_key(key), type(of_key(key)) is float
    return (kind, as_bytes(of_key(key))) if kind == _BINARY else (kind, InOrder(meter, of_key(key)))


def equal(meter: Meter, a: Any, b: Any) -> bool:
    """`==`: 1 equals 1.0, and nothing else equals a value of another kind."""
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
    """`===`: like `==`, and 1 is not 1.0 either."""
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
    """What `if` asks: anything but nil and false."""
    return value is not None and value is not False


def is_number(value: Any) -> bool:
    """Whether the value is an integer or a float."""
    return type(value) is int or type(value) is float


def is_atom(value: Any) -> bool:
    """Whether the value is an atom, nil and the booleans among them."""
    return _KINDS[type(value)] == _ATOM


def is_binary(value: Any) -> bool:
    """Whether the value is a text or other bytes."""
    return type(value) is str or type(value) is bytes


def atom_name(value: Any) -> str:
    """Return the name of an atom."""
    return value.name if isinstance(value, Atom) else _NAMES[value]


_WORDS: dict[str, bool | None] = {"true": True, "false": False, "nil": None}


def atom(name: str) -> Any:
    """Return the atom of a name, which `true`, `false` and `nil` have too."""
    return _WORDS[name] if name in _WORDS else Atom(name)


def as_bytes(binary: str | bytes) -> bytes:
    """Return the bytes of a binary."""
    return binary if isinstance(binary, bytes) else binary.encode(errors="surrogatepass")


def as_binary(raw: bytes) -> str | bytes:
    """Return the binary that these bytes are: a text if they are UTF-8."""
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
    """Return the map of pairs; of two equal keys the later one counts."""
    return {as_key(meter, key): value for key, value in pairs}


def pairs_of(meter: Meter, of: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """Return what Elixir lists of a map."""
    return [(of_key(key), of[key]) for key in sorted_keys(meter, of)]
