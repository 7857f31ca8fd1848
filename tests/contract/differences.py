"""Deliberate differences from the recordings. `userhooks/engine/DIFFERENCES.md` gives the reason for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx

from tests.contract.requests import Request, recorded

# --- the Management API: expected responses ----------------------------------------------------------------------------


def refused_with_message(answer: httpx.Response) -> bool:
    return (answer.status_code == 422 and len(answer.json()["summary"]) > 20) or "validation_errors" in answer.json()


def accepted_with_filters(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and answer.json()["filters"] == [{"column_name": "user_id", "operator": "==", "comparison_value": 1.0}]


def plans_only_the_new_function(answer: httpx.Response) -> bool:
    changes = answer.json()["changes"]
    return answer.status_code == 200 and [(c["resource_type"], c["action"], c["new"]["name"]) for c in changes] == [
        ("function", "create", "only-user-1")
    ]


def lists_only_the_function(answer: httpx.Response) -> bool:
    function = {
        "name": "only-user-1",
        "type": "filter",
        "description": None,
        "function": {
            "type": "filter",
            "code": 'def filter(action, record, changes, metadata) do\n  record["user_id"] == 1\nend',
        },
    }
    return answer.status_code == 200 and answer.json() == {"resources": [function]}


def in_current_shape(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and answer.json()["filter"] == "none" and "filters" not in answer.json()


def applied(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and answer.json()["filters"][0]["comparison_value"] == 2.0


def live_at_once(answer: httpx.Response) -> bool:
    sinks = answer.json().get("data", [answer.json()])
    health = [(sink["health"]["status"], sink["health"]["checks"][0]["status"]) for sink in sinks if sink["status"] == "active"]
    return answer.status_code == 200 and len(health) > 0 and set(health) <= {("waiting", "notice"), ("healthy", "notice")}


API: dict[str, dict[str, Callable[[httpx.Response], bool]]] = {
    "0.14.6": {
        "031": refused_with_message,
        "032": refused_with_message,
        "058": accepted_with_filters,
        "060": live_at_once,
        "082": refused_with_message,
        "083": refused_with_message,
        "118": plans_only_the_new_function,
        "119": lists_only_the_function,
        "121": live_at_once,
    },
    "0.9.4": {
        "109": in_current_shape,
        "110": refused_with_message,
        "111": refused_with_message,
        "113": refused_with_message,
        "131": refused_with_message,
        "133": refused_with_message,
        "153": applied,
    },
}
"""Version -> number of the recorded exchange -> check of the engine's different response."""

# --- webhooks: expected requests ---------------------------------------------------------------------------------------

LATE_ROWS = [{"created_at": "2026-11-23T17:46:30.000000Z", "id": 60 + n, "message": f"late {n}", "user_id": 1} for n in range(5)]
_READS = {
    1: {
        "t_char": "ab   ",
        "t_inet": "10.0.0.1/8",
        "t_money": "$12.34",
        "t_point": "(1.5,2)",
        "t_range": "[1,5)",
        "t_time": "13:14:15",
        "t_timetz": "13:14:15",
        "t_tsvector": "'cat' 'fat'",
    },
    3: {"t_timestamptz": "infinity"},
}


def _changed(request: Request, change: Callable[[dict[str, Any]], object]) -> Request:
    messages = [json.loads(text) for text in request.messages]
    for message in messages:
        change(message)
    return replace(request, messages=tuple(json.dumps(m, ensure_ascii=False, separators=(",", ":")) for m in messages))


def reads_like_live_changes(requests: list[Request]) -> list[Request]:
    return [_changed(request, lambda m: m["record"].update(_READS.get(m["record"]["id"], {}))) for request in requests]


def only_changes_since_the_sink(requests: list[Request]) -> list[Request]:
    return [request for request in requests if "while paused" in request.messages[0]]


def nothing(requests: list[Request]) -> list[Request]:
    return []


def every_row_after_the_answer(requests: list[Request]) -> list[Request]:
    (template,) = recorded("34-after-resume-insert.http")

    def request(index: int, row: dict[str, Any]) -> Request:
        def late(message: dict[str, Any]) -> None:
            message["record"] = row
            metadata = message["metadata"]
            metadata["consumer"]["name"] = "late"
            metadata |= {"commit_idx": index, "idempotency_key": f"<lsn>:{index}", "record_pks": [str(row["id"])]}

        return _changed(template, late)

    return [request(index, row) for index, row in enumerate(LATE_ROWS)]


WEBHOOKS: dict[str, Callable[[list[Request]], list[Request]]] = {
    "28-types-backfill-read.http": reads_like_live_changes,
    "31-paused-resumed.http": only_changes_since_the_sink,
    "32-disabled-insert.http": nothing,
    "35-insert-right-after-create.http": every_row_after_the_answer,
}
"""Name of the recording -> function from the recorded requests to the ones that the engine sends instead."""
