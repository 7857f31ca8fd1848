"""The status of a stack: typed, immutable, without secrets in its repr, and the same JSON on the wire and in `userhooks status --json`."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from userhooks.errors import ConfigurationError
from userhooks.settings import Settings
from userhooks.stack.home import Home
from userhooks.stack.status import PARTS, SlotStatus, StackStatus
from userhooks.stack.supervisor import describe

DATABASE_URL = "postgresql://ada:a-password@db.example/app"


def status_of(settings: Settings, **pids: int) -> StackStatus:
    return describe(settings, Home(settings.home), settings.ports, pids=pids, ready=bool(pids), version="v0.14.6")


@pytest.fixture
def embedded(tmp_path: Path) -> StackStatus:
    settings = Settings(tmp_path / "home")
    return status_of(settings, postgres=1, sequin=2, server=3)


@pytest.fixture
def separate(tmp_path: Path) -> StackStatus:
    """The status of a stack whose database and Sequin server belong to the user."""
    settings = Settings(
        tmp_path / "home",
        database_url=DATABASE_URL,
        sequin_url="http://sequin:7376",
        sequin_api_token="a-token",
        private_addresses="forbid",
    )
    return status_of(settings, server=3, inspector=4)


def test_json_of_an_embedded_stack(embedded: StackStatus) -> None:
    expected = {
        "home": str(embedded.home),
        "mode": "embedded",
        "ready": True,
        "private_addresses": "allow",
        "postgres": {"url": None, "embedded": True, "pid": 1, "data_dir": str(embedded.postgres.data_dir)},
        "sequin": {
            "url": "http://127.0.0.1:7376",
            "api_token": None,
            "metrics_url": "http://127.0.0.1:8376/metrics",
            "database": "postgres",
            "embedded": True,
            "pid": 2,
            "version": "v0.14.6",
        },
        "server": {"url": "http://127.0.0.1:3333", "pid": 3},
        "inspector": {"url": "http://127.0.0.1:3334", "token": None, "pid": None},
    }
    assert json.dumps(embedded.as_json()) == json.dumps(expected)


def test_json_of_a_separate_sequin_includes_what_was_asked_of_it(separate: StackStatus) -> None:
    assert separate.as_json()["postgres"] == {"url": DATABASE_URL, "embedded": False, "pid": None, "data_dir": None}
    sequin = replace(separate.sequin, filter_function="different", sinks={"active": 2}, slot=SlotStatus("sequin_slot", None))
    written = replace(separate, sequin=sequin).as_json()
    assert (written["mode"], written["private_addresses"]) == ("sequin", "forbid")
    assert list(written["sequin"])[-3:] == ["filter_function", "sinks", "slot"]
    assert written["sequin"]["filter_function"] == "different"
    assert written["sequin"]["sinks"] == {"active": 2}
    assert written["sequin"]["slot"] == {"name": "sequin_slot", "behind": None}


def test_json_is_read_back_as_the_same_status(embedded: StackStatus, separate: StackStatus) -> None:
    sequin = replace(separate.sequin, filter_function="different", sinks={"active": 2}, slot=SlotStatus("sequin_slot", 10))
    for status in (embedded, separate, replace(separate, sequin=sequin)):
        assert StackStatus.from_json(json.loads(json.dumps(status.as_json()))) == status


def test_each_part_is_running_down_or_external(embedded: StackStatus, separate: StackStatus) -> None:
    assert [embedded.state(part) for part in PARTS] == ["running", "running", "running", "down"]
    assert [separate.state(part) for part in PARTS] == ["external", "external", "running", "running"]
    assert [embedded.part(part).pid for part in PARTS] == [1, 2, 3, None]


def test_the_repr_shows_no_secret_and_a_status_cannot_be_changed(separate: StackStatus) -> None:
    secret = replace(separate, inspector=replace(separate.inspector, token="another-token"))
    assert not any(word in repr(secret) for word in ("a-password", "a-token", "another-token"))
    with pytest.raises(FrozenInstanceError):
        secret.ready = False  # type: ignore[misc]


@pytest.mark.parametrize("change", [{"sequin": {"unknown": 1}}, {"server": {}}])
def test_a_status_from_another_version_is_an_error_that_says_what_to_do(embedded: StackStatus, change: dict[str, Any]) -> None:
    fields = dict(embedded.as_json())
    for part, value in change.items():
        fields[part] = {**fields[part], **value} if value else value
    with pytest.raises(ConfigurationError, match="another version of userhooks"):
        StackStatus.from_json(fields)
