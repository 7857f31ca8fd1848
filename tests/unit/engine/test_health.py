"""A sink's health: the recorded sequence from creation to the first delivery, and every kind of problem."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine.resource_examples import NOTIFICATIONS, catalog
from userhooks.engine.resources import SinkResource, Source
from userhooks.engine.sink_health import Condition, health, overall, partly_recorded
from userhooks.webhooks.sequin_resources import Sink

RECORDED = Path(__file__).parents[2] / "recordings" / "0.14.6" / "api"
WAITING = Condition(status="active", reached=False, tried=False, moved=False, notice=True, problem=None, error=None, discarded=0)
HEALTHY = replace(WAITING, reached=True, tried=True, moved=True)
NAMES = ["Sink configuration", "Message filtering", "Message ingestion", "Messages pending delivery", "Message delivery"]


def recorded(number: str) -> dict[str, Any]:
    """Return the `health` object of a recorded response."""
    (path,) = RECORDED.glob(f"{number}-*.http")
    body = next(line for line in path.read_text().splitlines() if line.startswith('{"') and '"health"' in line)
    found: dict[str, Any] = json.loads(body)["health"]
    return found


def checks(condition: Condition) -> dict[str, tuple[str, str | None]]:
    return {check["name"]: (check["status"], check.get("error")) for check in health(condition)["checks"]}


@pytest.mark.parametrize(
    ("number", "condition"),
    [("123", WAITING), ("127", HEALTHY)],
    ids=["before the first delivery", "after the first delivery"],
)
def test_the_course_of_a_sink_is_the_recorded_one(number: str, condition: Condition) -> None:
    assert health(condition) == recorded(number)


def test_full_replica_identity_takes_the_notice_away() -> None:
    assert checks(replace(HEALTHY, notice=False))["Sink configuration"] == ("healthy", None)


def test_a_failed_delivery_is_an_error_with_its_words_and_clears_with_the_next_success() -> None:
    failing = replace(HEALTHY, error="[http_endpoint]: Unexpected status code: 500")
    assert health(failing)["status"] == "error"
    assert checks(failing)["Message delivery"] == ("error", "[http_endpoint]: Unexpected status code: 500")
    assert checks(failing)["Message ingestion"] == ("healthy", None)
    assert health(HEALTHY)["status"] == "healthy"


def test_a_filter_that_fails_is_an_error_of_filtering_and_of_delivery() -> None:
    words = "[filter]: argument error (line: 2)"
    failing = replace(WAITING, reached=True, tried=True, error=words)
    assert checks(failing) == {
        "Sink configuration": ("notice", None),
        "Message filtering": ("error", words),
        "Message ingestion": ("healthy", None),
        "Messages pending delivery": ("healthy", None),
        "Message delivery": ("error", words),
    }


def test_a_first_message_that_fails_at_its_receiver_leaves_delivery_alone_in_error() -> None:
    failing = replace(WAITING, reached=True, tried=True, error="[http_endpoint]: Unexpected status code: 503")
    assert [name for name, (status, _) in checks(failing).items() if status != "healthy"] == ["Sink configuration", "Message delivery"]


def test_a_client_says_an_error_once_that_two_checks_show() -> None:
    shown = health(replace(HEALTHY, error="[filter]: expected a boolean"))
    sink = {"id": "s", "name": "s", "database": "d", "status": "active", "actions": [], "destination": {}, "batch_size": 1, "health": shown}
    assert Sink.of(sink).error == "[filter]: expected a boolean"


def test_a_message_that_was_given_up_keeps_the_sink_in_error_after_later_successes() -> None:
    given_up = replace(HEALTHY, discarded=1_200)
    assert health(given_up)["status"] == "error"
    assert "1,200 message(s) discarded" in str(checks(given_up)["Message delivery"][1])
    failing = replace(given_up, error="[http_endpoint]: Unexpected status code: 500")
    assert checks(failing)["Message delivery"][1] == "[http_endpoint]: Unexpected status code: 500"


def test_what_keeps_changes_from_the_engine_is_an_error_of_ingestion() -> None:
    cut_off = replace(HEALTHY, problem="Postgres does not answer.")
    assert health(cut_off)["status"] == "error"
    assert checks(cut_off)["Message ingestion"] == ("error", "Postgres does not answer.")
    assert checks(cut_off)["Message delivery"] == ("healthy", None)


@pytest.mark.parametrize("status", ["paused", "disabled"])
def test_paused_and_disabled_sinks_are_paused_whatever_else_is_wrong_and_still_say_what(status: Any) -> None:
    condition = replace(HEALTHY, status=status, error="[http_endpoint]: Unexpected status code: 410")
    assert health(condition)["status"] == "paused"
    assert checks(condition)["Message delivery"] == ("error", "[http_endpoint]: Unexpected status code: 410")


@pytest.mark.parametrize("condition", [WAITING, HEALTHY, replace(HEALTHY, error="x", problem="y", status="paused")])
def test_the_five_checks_come_in_order_and_only_errors_have_words(condition: Condition) -> None:
    shown = health(condition)["checks"]
    assert [check["name"] for check in shown] == NAMES
    assert all(("error" in check) == (check["status"] == "error") for check in shown)
    assert health(condition)["status"] == overall(condition)


def test_a_sink_is_partly_recorded_when_one_of_its_tables_lacks_full_replica_identity() -> None:
    tables = catalog().tables
    sink = SinkResource("s", "s", "e1")
    assert partly_recorded(sink, tables)
    assert not partly_recorded(replace(sink, source=Source(include_tables=(NOTIFICATIONS,))), tables)
    assert partly_recorded(replace(sink, source=Source(include_tables=(("public", "users"),))), tables)
