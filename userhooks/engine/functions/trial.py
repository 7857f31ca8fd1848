"""Try out a new function: parse its code and run it on a sample message, as Sequin does. Pure.

The result of the run is ignored, and so is an exception, since the function may work for the user's rows. A function that does not
finish within the step limit is rejected.
"""

from __future__ import annotations

from functools import partial

from userhooks.engine.change import Change
from userhooks.engine.functions.evaluator import Frame, compile_expression
from userhooks.engine.functions.metadata import constant_metadata
from userhooks.engine.functions.meter import Exhausted, Meter
from userhooks.engine.functions.program import Program, read_program
from userhooks.engine.functions.syntax import FunctionError
from userhooks.engine.functions.terms import Raised
from userhooks.engine.functions.transforms import parse_transform
from userhooks.engine.postgres.pg_types import TIMESTAMPTZ, TypeCatalog
from userhooks.engine.resources import Column, Table
from userhooks.engine.table_shape import TableShape

KINDS = ("filter", "transform", "routing")

_TEXT, _INT4 = 25, 23
_COLUMNS = (Column("id", _INT4, -1), Column("name", _TEXT, -1), Column("house", _TEXT, -1), Column("inserted_at", TIMESTAMPTZ, -1))
_SHAPE = TableShape.of_table(Table("public", "characters", _COLUMNS, ("id",), "d"), TypeCatalog(()))
_ROW = (b"1", b"Paul Atreides", b"Fremen", b"2026-01-01 00:00:00+00")
_METADATA = constant_metadata(
    {
        "consumer": {
            "id": "00000000-0000-0000-0000-000000000001",
            "name": "my-consumer",
            "annotations": {"my-custom-key": "my-custom-value"},
        },
        "database": {
            "id": "00000000-0000-0000-0000-000000000002",
            "name": "dune",
            "hostname": "db.example.com",
            "database": "dune",
            "annotations": {"my-custom-key": "my-custom-value"},
        },
        "database_name": "dune",
    }
)


def check_function(code: str, kind: str) -> None:
    """Raise FunctionError unless the code is usable as a function of this kind."""
    if kind == "path":
        parse_transform(code, kind)
    elif kind in KINDS:
        _try_out(read_program(code))
    else:
        raise FunctionError(1, f"{kind} functions are not supported. Use one of: {', '.join(KINDS)}, path")


def _try_out(program: Program) -> None:
    evaluate = partial(compile_expression, metadata=_METADATA)
    frame = Frame(Change.read(_SHAPE, _ROW, "trial", 0), [None] * program.variables, Meter(), {})
    try:
        for step in program.steps:
            evaluate(step)(frame)
    except (Exhausted, RecursionError) as exc:
        raise FunctionError(1, f"code failed to evaluate: it does not terminate: {exc}", as_sequin=True) from exc
    except (Raised, ValueError):
        return
