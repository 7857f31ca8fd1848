"""The setting that forbids webhooks to loopback and private networks: in the status, on subscribing, and when the engine connects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.receiver import Receiver
from tests.stack.conftest import Installation
from tests.waiting import eventually
from userhooks.errors import ConfigurationError
from userhooks.settings import Settings
from userhooks.stack.stack import Stack


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installation = Installation(tmp_path_factory.mktemp("strict") / "home", USERHOOKS_PRIVATE_ADDRESSES="forbid")
    installation.succeed("up", "--detach")
    yield installation
    installation.remove()


def test_a_forbidden_address_is_refused_by_server_command_and_notebook(strict: Installation) -> None:
    assert "loopback and private addresses are refused (USERHOOKS_PRIVATE_ADDRESSES=forbid)" in strict.succeed("status")
    assert strict.status()["private_addresses"] == "forbid"
    url = "http://127.0.0.1:9/hook"
    assert "webhookUrl points to a forbidden address" in strict.fail("subscribe", "1", url)
    answer = httpx.post(f"{strict.status()['server']['url']}/subscribe", json={"userId": 1, "webhookUrl": url})
    assert answer.status_code == 400
    assert "forbidden address" in answer.json()["error"]
    stack = Stack.attach(strict.settings)
    assert "addresses are refused" in stack._repr_html_()
    with stack.sequin as sequin:
        assert sequin.endpoints() == sequin.sinks() == []


def test_a_forbidden_address_is_refused_whenever_the_engine_connects(strict: Installation, receiver: Receiver) -> None:
    stack = Stack.attach(strict.settings)
    with stack.sequin as sequin:
        sequin.refresh_tables()
        sequin.create_endpoint("direct", receiver.url)
        sequin.create_sink("direct", endpoint="direct", include_tables=["public.notifications"], filter_function="none")
        with stack.database.connect() as connection:
            connection.execute("insert into notifications (user_id, message) values (1, 'kept')")
        eventually(lambda: "forbidden address" in (sequin.sink("direct").error or ""), what="the refusal")
    assert receiver.arrived == 0
    assert not receiver._server.peers


def test_a_running_stack_is_not_passed_off_as_a_stricter_one(strict: Installation) -> None:
    lax = Settings.from_env({**strict.environment, "USERHOOKS_PRIVATE_ADDRESSES": "allow"})
    with pytest.raises(ConfigurationError, match="USERHOOKS_PRIVATE_ADDRESSES"):
        Stack.start(lax)


def test_another_word_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="USERHOOKS_PRIVATE_ADDRESSES is 'no'") as caught:
        Settings.from_env({"USERHOOKS_PRIVATE_ADDRESSES": "no"}, tmp_path)
    assert "forbid" in caught.value.remedy
