"""The package's public names can be imported and appear in the example; values displayed in a cell are escaped."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import userhooks
from userhooks import Ledger, Subscription, UserhooksError, errors
from userhooks.ledger.live import WalLedger
from userhooks.lessons.generator import Generated
from userhooks.webhooks.sequin_resources import Backfill
from userhooks.webhooks.subscriptions import BackfillHandle

EXAMPLE = Path(__file__).parents[1] / "example_of_public_names.py"
HOSTILE = "<script>alert('1')</script>"
BACKFILL = Backfill("b", HOSTILE, HOSTILE, "failed", None, 0, 0, HOSTILE)


@pytest.mark.parametrize("name", userhooks.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(userhooks, name).__name__.rpartition(".")[2] == name
    assert name in dir(userhooks)


def test_every_error_is_public() -> None:
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, UserhooksError)}
    assert kinds <= set(userhooks.__all__)


def test_the_example_uses_every_public_name() -> None:
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    assert {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} >= set(userhooks.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = userhooks.Nothing


def test_a_cell_shows_a_recording_ledger_without_judging_and_a_closed_one_by_its_final_result() -> None:
    class Recording:
        closed = False

        def require_open(self) -> None: ...

        def close(self) -> None: ...

    final = Ledger(0, (), (), (), (), (), filter_problem=HOSTILE)
    judged = []
    ledger = WalLedger(Recording(), lambda recording: judged.append(recording) or final)
    assert "still recording" in ledger._repr_html_()
    assert judged == []
    ledger.close()
    assert ledger._repr_html_() == final._repr_html_()


@pytest.mark.parametrize(
    "shown",
    [
        Subscription(1, "id", HOSTILE, HOSTILE, HOSTILE, secret="a-secret"),
        BACKFILL,
        BackfillHandle(object(), BACKFILL),
        Ledger(0, (), (), (), (), (), filter_problem=HOSTILE),
    ],
    ids=lambda shown: type(shown).__name__,
)
def test_a_cell_shows_a_table_with_every_value_escaped(shown: Any) -> None:
    table = shown._repr_html_()
    assert table.startswith("<table>")
    assert "<script" not in table
    assert "&lt;script&gt;" in table
    assert "a-secret" not in table


def test_a_cell_shows_what_was_generated() -> None:
    generated = Generated(100, 2, 1, {1: 100}, 103, 10, 10.3, datetime.now(UTC), False, 1, 100, ())
    assert all(f">{count}</td>" in generated._repr_html_() for count in (100, 2, 1))
