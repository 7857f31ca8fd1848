"""`metadata` as functions see it: the fields that depend on the change, and those that are constant for a sink. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from userhooks.engine.change import Change
from userhooks.engine.functions import structs
from userhooks.engine.functions.terms import Atom, atom
from userhooks.engine.message_format import METADATA

METADATA_TERMS: Mapping[str, Callable[[Change], Any]] = {
    **METADATA,
    "commit_timestamp": lambda change: structs.datetime(structs.Moment(change.commit_us, 6)),
}
"""Fields of `metadata` that depend on the change, each with the function that reads it."""


def constant_metadata(constants: Mapping[str, Any]) -> dict[Atom, Any]:
    """Convert a sink's constant metadata to Elixir's maps; keys become atoms, except within `annotations`, which stay plain JSON."""

    def to_term(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {atom(k): v if k == "annotations" else to_term(v) for k, v in value.items()}
        return value

    return {Atom(name): to_term(value) for name, value in constants.items()}


def metadata_of(change: Change, constants: Mapping[Atom, Any]) -> dict[Atom, Any]:
    """Return the complete `metadata` of a change."""
    return {**{Atom(name): read(change) for name, read in METADATA_TERMS.items()}, **constants}
