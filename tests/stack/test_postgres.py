"""The embedded Postgres server, tested from outside: its startup, crashes, leftovers, and errors."""

from __future__ import annotations

import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.ports import free_port
from tests.waiting import eventually
from userhooks.errors import ConfigurationError
from userhooks.stack.embedded_postgres import SYSTEM_FOLDER, PostgresServer, cluster_folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path, port=free_port(), password=secrets.token_hex(16), log=tmp_path / "postgres.log")
    yield server
    server.remove()
    assert not server.folder.exists()


def ask(server: PostgresServer, question: str) -> str:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return str(row[0])


def test_it_takes_the_password_over_tcp_and_is_ready_for_logical_replication(server: PostgresServer) -> None:
    server.start()
    assert ask(server, "SHOW wal_level") == "logical"
    assert ask(server, "SHOW fsync") == "on"
    assert ask(server, "SHOW unix_socket_directories") == ""
    assert ask(server, "SELECT pg_create_logical_replication_slot('here', 'pgoutput') IS NOT NULL") == "True"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url().replace(":" + server.url().split(":")[2].split("@")[0], ":wrong"))


def test_what_was_committed_is_there_after_the_server_was_killed(server: PostgresServer) -> None:
    server.start()
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: server.pid is None, what="the killed server to be gone")
    server.start()
    assert ask(server, "SELECT answer FROM kept") == "42"


def test_a_lock_file_that_names_another_process_is_no_obstacle(server: PostgresServer) -> None:
    server.start()
    server.stop()
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (server.data_dir / "postmaster.pid").write_text(f"{stranger.pid}\n{server.data_dir}\n", encoding="ascii")
        server.start()
        assert ask(server, "SELECT 1") == "1"
        assert stranger.poll() is None
    finally:
        stranger.communicate(timeout=10)


def test_it_ends_with_its_parent_even_when_the_parent_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys; from pathlib import Path; from userhooks.stack.embedded_postgres import PostgresServer\n"
        "home = Path(sys.argv[1]); server = PostgresServer(home, port=int(sys.argv[2]), password='x', log=home / 'log')\n"
        "server.start(); print(server.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(home), str(free_port())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    heir = PostgresServer(home, port=free_port(), password="x", log=home / "log")
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
        eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, what="the orphan to end")
    finally:
        parent.communicate(timeout=10)
        heir.remove()


def test_a_server_that_outlived_its_parent_and_watchdog_makes_room_for_the_next(server: PostgresServer, tmp_path: Path) -> None:
    server.start()
    first = server.pid
    heir = PostgresServer(tmp_path, port=free_port(), password="x", log=tmp_path / "postgres.log")
    try:
        heir.start()
        eventually(lambda: server.pid is None, what="the first server to be gone")
        assert heir.pid not in (None, first)
    finally:
        heir.stop()


def test_a_port_in_use_is_an_error_with_the_reason(server: PostgresServer, postgres_server: PostgresServer) -> None:
    server.port = postgres_server.port
    with pytest.raises(ConfigurationError, match="could not create any TCP/IP sockets"):
        server.start()
    assert server.pid is None


def test_it_works_with_a_home_that_nobody_else_may_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    home = closed / "home"
    home.mkdir(mode=0o700)
    server = PostgresServer(home, port=free_port(), password="x", log=home / "postgres.log")
    try:
        server.start()
        as_root = os.geteuid() == 0
        assert cluster_folder(home).parent == (SYSTEM_FOLDER if as_root else home)
        assert server.folder.stat().st_mode & 0o777 == 0o700
        assert closed.stat().st_mode & 0o777 == 0o700
        assert server.pid is not None
        assert psutil.Process(server.pid).username() == ("nobody" if as_root else psutil.Process().username())
    finally:
        server.remove()


def test_a_cluster_that_cannot_be_made_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path, port=free_port(), password=secrets.token_hex(16), log=tmp_path / "postgres.log")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (14_000_000, hard))  # less than the WAL's first file, which has 16 MB
    try:
        with pytest.raises(ConfigurationError, match="initdb failed") as caught:
            server.start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        server.remove()
    assert 'could not write to file "pg_wal/xlogtemp' in caught.value.what
    assert "File too large" in caught.value.what
