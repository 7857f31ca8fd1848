"""The stack's processes: up, status, and down; processes that die; several homes; and errors of homes, ports, and settings."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.hostile import VARIABLES
from tests.ports import free_port
from tests.stack.conftest import Installation, assert_gone
from tests.waiting import eventually
from userhooks import Stack
from userhooks.errors import ConfigurationError, InvalidInput, NotRunning, SequinUnreachable
from userhooks.inspector.client import InspectorClient
from userhooks.stack.control import end_programs_of, started_at
from userhooks.stack.embedded_postgres import cluster_folder, runs_as_root
from userhooks.stack.home import LOG_BYTES
from userhooks.webhooks.database import Database

PARTS = ("postgres", "sequin", "server", "inspector")


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


# --- up, status, down --------------------------------------------------------------------------------------------------


def test_up_twice_and_down_twice_change_nothing_the_second_time(running: Installation) -> None:
    first = running.status()
    running.succeed("up", "--detach")
    assert running.status() == first
    processes = running.processes()
    assert len(processes) >= 6
    running.succeed("down")
    assert_gone(processes)
    running.succeed("down")
    assert not running.status()["ready"]


def test_status_tells_programs_where_everything_is(running: Installation) -> None:
    status = running.status()
    assert {name: sorted(value) if isinstance(value, dict) else type(value) for name, value in status.items()} == {
        "home": str,
        "mode": str,
        "ready": bool,
        "private_addresses": str,
        "postgres": ["data_dir", "embedded", "pid", "url"],
        "sequin": ["api_token", "database", "embedded", "metrics_url", "pid", "url", "version"],
        "server": ["pid", "url"],
        "inspector": ["pid", "token", "url"],
    }
    assert status["home"] == str(running.home.path)
    assert (status["mode"], status["ready"]) == ("embedded", True)
    assert status["sequin"]["version"] == "v0.14.6"
    assert Path(status["postgres"]["data_dir"], "PG_VERSION").exists()
    assert len(Database(status["postgres"]["url"]).users()) > 0
    for part in ("sequin", "server", "inspector"):
        assert httpx.get(f"{status[part]['url']}/health").status_code == 200
    assert httpx.get(status["sequin"]["metrics_url"]).status_code == 200
    token = {"Authorization": f"Bearer {status['sequin']['api_token']}"}
    assert httpx.get(f"{status['sequin']['url']}/api/sinks", headers=token).status_code == 200
    token = {"Authorization": f"Bearer {status['inspector']['token']}"}
    assert httpx.get(f"{status['inspector']['url']}/api/inboxes", headers=token).status_code == 200


def test_the_status_for_people_holds_no_secret(running: Installation) -> None:
    secrets = running.home.secrets
    text = running.succeed("status")
    assert "loopback and private addresses are allowed (USERHOOKS_PRIVATE_ADDRESSES=allow)" in text
    assert secrets.postgres_password not in text
    assert secrets.api_token not in text


def test_printed_links_let_a_browser_in_and_hold_no_token(running: Installation) -> None:
    status = running.status()
    tokens = [status["sequin"]["api_token"], status["inspector"]["token"]]
    with Stack.attach(running.settings).inspector as inspector:
        inspector.inbox("ada")
    printed = running.succeed("status") + running.succeed("inbox", "ada") + Stack.attach(running.settings)._repr_html_()
    links = re.findall(r"http://[^\s\"]+\?token=[^\s\"]+", printed)
    assert [urlsplit(link).path.partition("/inboxes/")[0] for link in links] == ["/", "/", "", "/", "/"]
    for link in links:
        assert not any(token in link for token in tokens)
        bare = link.partition("?")[0]
        assert httpx.get(bare).status_code == 401
        with httpx.Client(follow_redirects=True) as browser:
            assert (browser.get(link).status_code, str(browser.get(link).url)) == (200, bare)


def test_the_inspector_shows_every_part_and_leads_to_the_console(running: Installation) -> None:
    status = running.status()
    http = httpx.Client(base_url=status["inspector"]["url"], headers={"Authorization": f"Bearer {status['inspector']['token']}"})
    with http:
        parts = {part["name"]: part["state"] for part in http.get("/api/stack").json()["parts"]}
        assert parts == dict.fromkeys(PARTS, "running")
        link = http.get("/console").headers["location"]
    with httpx.Client(follow_redirects=True) as browser:
        assert (browser.get(link).status_code, str(browser.get(link).url)) == (200, f"{status['sequin']['url']}/")


def test_the_console_shows_every_part_and_leads_to_the_inspector(running: Installation) -> None:
    status = running.status()
    http = httpx.Client(base_url=status["sequin"]["url"], headers={"Authorization": f"Bearer {status['sequin']['api_token']}"})
    with http:
        bar = http.get("/").text.partition("<main>")[0]
        assert re.findall(r'<li class="state good">(\w+) running</li>', bar) == list(PARTS)
        link = http.get("/inspector").headers["location"]
    with httpx.Client(follow_redirects=True) as browser:
        assert (browser.get(link).status_code, str(browser.get(link).url)) == (200, f"{status['inspector']['url']}/")


def test_the_home_is_its_owners_alone(running: Installation) -> None:
    assert running.home.path.stat().st_mode & 0o777 == 0o700
    for file in (running.home.secrets_file, running.home.stack_file):
        assert file.stat().st_mode & 0o777 == 0o600


def test_status_of_a_home_that_is_not_there_starts_and_creates_nothing(installation: Installation) -> None:
    status = installation.status()
    assert not status["ready"]
    assert [status[part]["pid"] for part in PARTS] == [None] * 4
    assert not installation.home.path.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ctrl_c_and_a_closed_terminal_end_what_up_started(stopped: Installation, number: int, code: int) -> None:
    with up_in_foreground(stopped) as up:
        processes = stopped.processes()
        up.send_signal(number)
        assert up.wait(30) == code
        assert_gone(processes)


def test_a_signal_while_it_starts_leaves_nothing_running(installation: Installation) -> None:
    up = subprocess.Popen([sys.executable, "-m", "userhooks.cli", "up"], env=installation.environment, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: installation.home.secrets_file.exists(), every=0.001, what="the start to begin")
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 143
        assert installation.home.running() is None
    finally:
        up.kill()
        up.wait()


def test_up_ends_when_down_is_typed_elsewhere(stopped: Installation) -> None:
    with up_in_foreground(stopped) as up:
        stopped.succeed("down")
        assert up.wait(30) == 0


@contextmanager
def up_in_foreground(installation: Installation) -> Iterator[subprocess.Popen[str]]:
    up = subprocess.Popen([sys.executable, "-m", "userhooks.cli", "up"], env=installation.environment, stdout=subprocess.PIPE, text=True)
    try:
        assert up.stdout is not None
        assert any("Ctrl-C" in line for line in up.stdout)
        yield up
    finally:
        up.kill()
        up.communicate()


def test_a_log_that_has_grown_large_is_put_aside(running: Installation) -> None:
    running.succeed("down")
    log = running.home.log("server")
    log.write_bytes(b"x" * (LOG_BYTES + 1))
    running.succeed("up", "--detach")
    assert log.stat().st_size < LOG_BYTES
    assert log.with_suffix(".log.old").stat().st_size > LOG_BYTES


def test_several_commands_at_once_start_one_stack(installation: Installation) -> None:
    command = [sys.executable, "-m", "userhooks.cli", "up", "--detach"]
    each = [subprocess.Popen(command, env=installation.environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    # Each status has new links to the pages, whose tokens depend on the time.
    outputs = {re.sub(r"\?token=\S+", "", process.communicate(timeout=90)[0]) for process in each}
    assert [process.returncode for process in each] == [0] * 4
    assert len(outputs) == 1


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
def test_every_server_reads_the_body_of_a_request_that_offers_an_upgrade(running: Installation, offer: str) -> None:
    running.succeed("up", "--detach")
    status = running.status()
    with InspectorClient(status["inspector"]["url"], status["inspector"]["token"]) as client:
        inbox = client.inbox(f"offers-{offer}")
        subscribed, endpoint = {"userId": 1, "webhookUrl": inbox.url}, {"name": f"offers-{offer}", "url": inbox.url}
        for framing in (_with_length, _chunked):
            answer = _answer_to_offer(offer, inbox.url, framing(b"the body"))
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            answer = _answer_to_offer(offer, status["server"]["url"] + "/subscribe", framing(json.dumps(subscribed).encode()))
            assert b'"sinkName":"user-1-notifications' in answer
            # The second request for the same endpoint is refused because of its name, so the engine has read both bodies.
            url = status["sequin"]["url"] + "/api/destinations/http_endpoints"
            answer = _answer_to_offer(offer, url, framing(json.dumps(endpoint).encode()), status["sequin"]["api_token"])
            assert (b'"name":"offers-' if framing is _with_length else b"has already been taken") in answer
        assert [received.body for received in inbox.received() if dict(received.headers).get("upgrade") == offer] == 2 * [b"the body"]
    assert _answer_to_offer(offer, status["sequin"]["metrics_url"], b"\r\n", method="GET").startswith(b"HTTP/1.1 200 ")


def _with_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def _chunked(body: bytes) -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def _answer_to_offer(offer: str, url: str, rest: bytes, token: str = "", method: str = "POST") -> bytes:
    """Send a request that offers an upgrade and ends with `rest`, then another request, and return both answers."""
    parts = urlsplit(url)
    head = f"{method} {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {offer}\r\n"
    head += f"HTTP2-Settings: AAMAAABk\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}\r\n"
    last = f"GET /health HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(head.encode() + rest + last.encode())
        answers = b""
        while part := connection.recv(65536):
            answers += part
    assert answers.count(b"HTTP/1.1 ") == 2, answers
    return answers


def test_two_homes_run_side_by_side_on_free_ports(running: Installation, install: Callable[..., Installation]) -> None:
    other = install("two")
    other.succeed("up", "--detach")
    first, second = running.status(), other.status()
    assert first["ready"]
    assert second["ready"]
    assert not {first[part]["url"] for part in PARTS} & {second[part]["url"] for part in PARTS}
    running.succeed("down")
    assert other.status() == second
    running.succeed("up", "--detach")
    assert [running.status()[part]["url"] for part in PARTS] == [first[part]["url"] for part in PARTS]


# --- processes that die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_was_killed_stays_down_until_up(running: Installation, part: str) -> None:
    before = running.pids()
    kill(before[part])
    eventually(lambda: running.pids()[part] is None, what=f"{part} to be seen as down")
    assert not running.status()["ready"]
    assert "Not running" in running.fail("subscriptions")
    running.succeed("up", "--detach")
    after = running.pids()
    assert running.status()["ready"]
    assert after[part] not in (None, before[part])
    assert {**before, part: None} == {**after, part: None}


def test_a_notebook_can_kill_and_restart_a_part(stopped: Installation) -> None:
    stack = Stack.start(stopped.settings)
    assert stack.started
    stack.kill("postgres")
    assert stack.status().postgres.pid is None
    stack.restart("postgres")
    assert stack.status().ready
    before = stack.status().server.pid
    stack.restart("server")
    assert stack.status().server.pid not in (None, before)
    assert len(stack.database.users()) > 0
    with pytest.raises(InvalidInput, match="no part 'redis'"):
        stack.kill("redis")
    assert not Stack.start(stopped.settings).started
    stack.stop()
    with pytest.raises(NotRunning):
        stack.restart("server")
    with pytest.raises(NotRunning):
        Stack.attach(stopped.settings)


def test_as_a_context_a_stack_is_stopped_by_the_one_that_started_it(stopped: Installation) -> None:
    with Stack.start(stopped.settings) as stack:
        assert len(stack.database.users()) > 0
        with Stack.attach(stopped.settings) as attached:
            sinks = attached.sequin.sinks()
            attached.inspector.inboxes()
        assert attached.sequin.sinks() == sinks, "a client that was closed is made anew"
        assert stack.status().ready
        attached.close()
    assert not stack.status().ready


def test_a_supervisor_that_was_killed_takes_everything_with_it_and_the_data_stays(running: Installation) -> None:
    ada = Stack.attach(running.settings).database.create_user("Ada")
    supervisor, *others = running.processes()
    supervisor.kill()
    assert_gone(others)
    assert not running.status()["ready"]
    running.succeed("up", "--detach")
    assert Stack.attach(running.settings).database.user_exists(ada)


def test_up_right_after_the_supervisor_was_killed_waits_for_the_ports(running: Installation) -> None:
    running.processes()[0].kill()
    running.succeed("up", "--detach")
    assert running.status()["ready"]


def test_a_watchdog_that_was_killed_is_replaced_at_once(running: Installation) -> None:
    def watchdog() -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess):  # it exited while its command line was read
            return next((process for process in running.processes() if "userhooks.stack.watchdog" in process.cmdline()), None)
        return None

    first = watchdog()
    assert first is not None
    first.kill()
    eventually(lambda: watchdog() not in (None, first), what="another watchdog")
    supervisor, *others = running.processes()
    supervisor.kill()
    assert_gone(others)


def test_a_server_restarted_after_a_crash_is_still_watched(stopped: Installation) -> None:
    stack = Stack.start(stopped.settings)
    stack.kill("postgres")
    stack.restart("postgres")
    supervisor, *others = stopped.processes()
    supervisor.kill()
    assert_gone(others)


def test_a_stranger_that_has_the_pid_of_an_old_program_is_left_alone() -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = started_at(stranger.pid)
        assert started is not None
        end_programs_of({"started": {"server": started - 100}, "server": {"pid": stranger.pid}})
        assert stranger.poll() is None
    finally:
        stranger.communicate(timeout=10)


# --- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["postgres", "sequin", "metrics", "server", "inspector"])
def test_a_port_in_use_is_one_error_that_names_port_and_variable(install: Callable[..., Installation], part: str) -> None:
    variable = f"USERHOOKS_{part.upper()}_PORT"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        installation = install(**{variable: str(port)})
        output = installation.fail("up", "--detach")
        assert str(port) in output
        assert variable in output
        assert installation.home.running() is None
    installation.succeed("up", "--detach")


@pytest.mark.parametrize("command", [["up", "--detach"], ["status"], ["down"], ["demo"], ["doctor"]])
def test_sequin_without_its_database_is_an_error(install: Callable[..., Installation], command: list[str]) -> None:
    installation = install()
    wrong = {**installation.environment, "SEQUIN_URL": "http://127.0.0.1:1", "SEQUIN_API_TOKEN": "x"}
    done = subprocess.run(
        [sys.executable, "-m", "userhooks.cli", *command], env=wrong, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "SEQUIN_URL is set and DATABASE_URL is not" in done.stderr
    assert not installation.home.path.exists()


@pytest.mark.parametrize(("key", "value"), [("format", 99), ("postgres_major", 9)])
def test_a_home_of_another_release_is_not_touched(running: Installation, key: str, value: int) -> None:
    running.succeed("down")
    file = running.home.format_file
    kept = file.read_text(encoding="utf-8")
    file.write_text(json.dumps({**json.loads(kept), key: value}), encoding="utf-8")
    assert "make clean" in running.fail("up", "--detach")
    file.write_text(kept, encoding="utf-8")
    running.succeed("up", "--detach")


def test_a_folder_with_other_things_in_it_is_no_home(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("mine", encoding="utf-8")
    assert "was not created by userhooks" in Installation(folder).fail("up", "--detach")
    assert [file.name for file in folder.iterdir()] == ["chapter.txt"]


def test_a_home_deleted_by_hand_is_not_begun_anew_on_its_old_database(installation: Installation) -> None:
    installation.succeed("up", "--detach")
    installation.succeed("down")
    shutil.rmtree(installation.home.path)
    if runs_as_root():  # the database is elsewhere, and the home might only have been moved
        cluster = cluster_folder(installation.home.path)
        assert f"rm -r {cluster}" in installation.fail("up", "--detach")
        shutil.rmtree(cluster)
    installation.succeed("up", "--detach")


def test_a_running_stack_is_not_passed_off_as_one_with_other_settings(running: Installation, database_url: str) -> None:
    running.environment["DATABASE_URL"] = database_url
    output = running.fail("up", "--detach")
    assert "different DATABASE_URL" in output
    assert "userhooks down" in output
    del running.environment["DATABASE_URL"]
    running.environment["USERHOOKS_SERVER_PORT"] = str(free_port())
    assert "different USERHOOKS_SERVER_PORT" in running.fail("up", "--detach")


def test_a_part_that_cannot_start_says_why_and_leaves_nothing_half_started(installation: Installation) -> None:
    installation.succeed("up", "--detach")
    installation.succeed("down")
    installation.home.engine_store.write_bytes(b"no database at all" * 100)
    output = installation.fail("up", "--detach")
    assert "sequin process did not start" in output
    assert str(installation.home.log("sequin")) in output
    assert installation.home.running() is None


def test_a_home_that_nobody_else_may_enter_is_enough(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    installation = Installation(closed / "home")
    try:
        installation.succeed("up", "--detach")
        assert closed.stat().st_mode & 0o777 == 0o700
    finally:
        installation.remove()


# --- the user's own database or Sequin ---------------------------------------------------------------------------------


def test_with_a_database_of_the_readers_own_down_names_the_slot_and_how_to_drop_it(
    install: Callable[..., Installation], database_url: str
) -> None:
    installation = install(DATABASE_URL=database_url)
    installation.succeed("up", "--detach")
    status = installation.status()
    assert (status["mode"], status["ready"]) == ("embedded", True)
    assert status["postgres"] == {"url": database_url, "embedded": False, "pid": None, "data_dir": None}
    output = installation.succeed("down")
    assert f"The slot {installation.home.slot} still holds" in output
    command = output.splitlines()[-1].split(": ", 1)[1]
    program, variable, option, statement = shlex.split(command)
    assert (program, variable, option) == ("psql", "$DATABASE_URL", "-c")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(statement.encode())
    assert installation.succeed("down") == ""


def test_a_database_that_is_not_there_is_an_error_and_nothing_is_left_running(
    install: Callable[..., Installation], database_url: str
) -> None:
    installation = install(DATABASE_URL=database_url.rsplit("/", 1)[0] + "/missing")
    assert "missing" in installation.fail("up", "--detach")
    assert installation.home.running() is None


def test_with_a_sequin_of_the_readers_own_only_server_and_inspector_are_started(
    install: Callable[..., Installation], database_url: str, tmp_path: Path
) -> None:
    Database(database_url).set_up("own_pub")
    engine = EngineProgram(database_url, tmp_path, publication="own_pub").start()
    try:
        installation = install(DATABASE_URL=database_url, SEQUIN_URL=engine.url, SEQUIN_API_TOKEN=engine.token)
        installation.succeed("up", "--detach")
        status = installation.status()
        assert (status["mode"], status["ready"]) == ("sequin", True)
        expected: dict[str, Any] = {"url": engine.url, "api_token": engine.token, "metrics_url": None, "database": "postgres"}
        assert status["sequin"].pop("slot")["name"] == engine.config["slot"]
        assert status["sequin"] == {**expected, "embedded": False, "pid": None, "version": "v0.14.6", "sinks": {}}
        assert status["postgres"]["pid"] is None
        stack = Stack.attach(installation.settings)
        with pytest.raises(InvalidInput, match="is your own server"):
            stack.kill("sequin")
        with stack.inspector as inspector:
            url = inspector.inbox("ada").url
        assert "New sink user-1-notifications" in installation.succeed("subscribe", "1", url)
        with pytest.raises(ConfigurationError, match=r"not set\.\nRun userhooks down, set SEQUIN_METRICS_URL"):
            Stack.attach(installation.settings).metrics()
        installation.environment["SEQUIN_METRICS_URL"] = f"http://127.0.0.1:{engine.config['metrics_port']}/metrics"
        assert "different SEQUIN_METRICS_URL" in installation.fail("up", "--detach")
        installation.succeed("down")
        installation.succeed("up", "--detach")
        assert slot_health(Stack.attach(installation.settings)) == {"ok": 1}
        installation.succeed("down")
    finally:
        engine.stop()


def slot_health(stack: Stack) -> dict[str, float]:
    """Return the slot's current status, mapped to 1, from the metrics page."""
    page = stack.metrics()
    present = page[(page["metric"] == "sequin_entity_health") & (page["entity_type"] == "replication_slot") & (page["value"] == 1)]
    return dict(zip(present["status"], present["value"], strict=True))


def test_metrics_are_a_frame_and_their_absence_is_said(running: Installation) -> None:
    stack = Stack.attach(running.settings)
    assert slot_health(stack) == {"ok": 1}
    stack.kill("sequin")
    with pytest.raises(SequinUnreachable, match="When Sequin is down"):
        stack.metrics()


def test_variables_for_another_postgres_are_nothing_to_the_embedded_one(install: Callable[..., Installation]) -> None:
    hostile = install(**VARIABLES)
    hostile.succeed("up", "--detach")
    assert hostile.run("generate", "--count", "3").returncode == 0
    assert hostile.status()["ready"] is True
