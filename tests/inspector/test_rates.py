"""Counts and latencies by second, from `Rates` and from a running inspector."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import httpx

from tests.inspector.bodies import batch, message
from userhooks.inspector.client import Inbox
from userhooks.inspector.rates import KEPT_SECONDS, Rates


def test_each_second_counts_what_was_received_in_it() -> None:
    rates = Rates()
    rates.add(1, 100.0, 200, unanswered=False, latencies=[0.001])
    rates.add(2, 100.9, 503, unanswered=False, latencies=[0.003, 0.005])
    rates.add(3, 102.5, None, unanswered=True, latencies=[])
    assert rates.newest(102.9, 4) == [
        {"second": 99, "requests": 0, "accepted": 0, "refused": 0, "unanswered": 0, "rows": 0, "latency_ms": None},
        {"second": 100, "requests": 2, "accepted": 1, "refused": 1, "unanswered": 0, "rows": 0, "latency_ms": {"p50": 3.0, "max": 5.0}},
        {"second": 101, "requests": 0, "accepted": 0, "refused": 0, "unanswered": 0, "rows": 0, "latency_ms": None},
        {"second": 102, "requests": 1, "accepted": 0, "refused": 0, "unanswered": 1, "rows": 0, "latency_ms": None},
    ]


def test_an_answer_that_came_later_counts_in_the_second_of_its_request() -> None:
    rates = Rates()
    rates.add(1, 100.0, None, unanswered=True, latencies=[], rows=1)
    rates.add(2, 100.0, None, unanswered=True, latencies=[], rows=1)
    rates.answered(1, 200)
    rates.answered(2, None)
    (second,) = rates.newest(100.0, 1)
    assert (second["accepted"], second["refused"], second["unanswered"], second["rows"]) == (1, 0, 1, 1)


def test_old_seconds_are_forgotten_and_their_late_answers_harm_nothing() -> None:
    rates = Rates()
    rates.add(1, 100.0, None, unanswered=True, latencies=[])
    rates.add(2, 100.0 + KEPT_SECONDS, 200, unanswered=False, latencies=[])
    rates.answered(1, 200)
    shown = rates.newest(100.0 + KEPT_SECONDS, KEPT_SECONDS + 1)
    assert (shown[0]["requests"], shown[-1]["accepted"], shown[-1]["unanswered"]) == (0, 1, 0)


def test_an_inbox_tells_its_rates(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond([{"every": 3, "status": 500}])
    began = int(time.time())
    for row in range(6):
        http.post(inbox.url, json=message(1, row, commit_timestamp=datetime.now(UTC).isoformat()))
    rates = http.get(f"/api/inboxes/{inbox.id}/rates", params={"seconds": 30}).json()["rates"]
    assert len(rates) == 30
    assert [second["second"] for second in rates] == list(range(rates[0]["second"], rates[0]["second"] + 30))
    busy = [second for second in rates if second["requests"]]
    assert [sum(second[count] for second in busy) for count in ("requests", "accepted", "refused")] == [6, 4, 2]
    assert began <= busy[0]["second"] <= time.time()
    assert all(0 < second["latency_ms"]["p50"] <= second["latency_ms"]["max"] < 60_000 for second in busy)


def test_new_rows_count_once_and_only_when_they_were_accepted(http: httpx.Client, inbox: Inbox) -> None:
    inbox.respond([{"first": 1, "status": 500}])
    update, read = message(1, 4, action="update"), message(1, 5, action="read", commit_lsn=None)
    for body in (message(1, 1), message(1, 1), message(1, 1), batch(message(1, 2), message(1, 3)), update, read):
        http.post(inbox.url, json=body)
    rates = http.get(f"/api/inboxes/{inbox.id}/rates", params={"seconds": 30}).json()["rates"]
    assert sum(second["rows"] for second in rates) == 3


def test_rates_of_too_many_seconds_are_refused(http: httpx.Client, inbox: Inbox) -> None:
    refused = http.get(f"/api/inboxes/{inbox.id}/rates", params={"seconds": 601})
    assert (refused.status_code, refused.json()["field"]) == (400, "seconds")
