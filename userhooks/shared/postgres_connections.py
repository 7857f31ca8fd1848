"""Connecting to Postgres: the connection string, the settings of sessions, and the `PG*` variables that apply.

libpq takes missing parts of a connection string from the environment. It also sends some variables (`PGTZ`, `PGOPTIONS`) as session
settings, which override all others. So `complete` reads the environment once, when it reads `DATABASE_URL`, and only for the server, the
identity, and TLS. From then on, the connection string is complete, and `PG*` variables are hidden from libpq when it connects.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from userhooks.errors import ConfigurationError

SETTINGS: Mapping[str, str] = {
    # Values have the text form that the engine's encoders and psycopg expect.
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    # Statements are parsed and run the same way on every server.
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "row_security": "off",  # raise an error if a policy would hide rows, because all rows are always needed
    # Nothing times out by default; callers that need a limit set one.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "client_min_messages": "notice",
}
"""Settings of every session, which override those of the role, the database, and the server. They are sent with the connection."""

_RESET = """
select set_config(name, value, false)
  from (values ('idle_session_timeout', '0'), ('transaction_timeout', '0'), ('session_replication_role', 'origin')) reset (name, value)
 where current_setting(name, true) <> value
"""
"""Statement that sets the remaining settings, if their values differ.

They cannot be sent with the connection: two exist only since Postgres 14 and 17, and not every role may set the third.
"""

_SEARCH_PATH = '"$user", public'
_EXTEND_SEARCH_PATH = "select set_config('search_path', 'pg_catalog, ' || current_setting('search_path') || ', public', false)"
"""Statement that extends the search path.

The engine needs the role's path to find user-defined types, but no user table may shadow a system catalog.
"""

_NETWORK: Mapping[str, int] = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Defaults that detect a dead server quickly.

They are in seconds, except `keepalives_count` and `tcp_user_timeout`, which is in milliseconds.
"""

_WHERE = ("host", "hostaddr", "port", "target_session_attrs", "load_balance_hosts")
_WHO = ("user", "dbname", "password", "passfile")
_TRUST = (
    *("sslmode", "sslnegotiation", "sslcert", "sslkey", "sslcertmode", "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "requirepeer"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "channel_binding", "require_auth", "gssencmode", "krbsrvname", "gsslib"),
    *("gssdelegation", "min_protocol_version", "max_protocol_version"),
)
_VARIABLES = {
    "dbname": "PGDATABASE",
    **{key: "PG" + key.upper().replace("_", "") for key in (*_WHERE, *_WHO, *_TRUST) if key != "dbname"},
}
"""Environment variable for each part of a connection string; libpq's other variables are ignored."""
_SERVICE_FILES = ("PGSERVICEFILE", "PGSYSCONFDIR")
"""Variables that only say where a `service=` is looked up. They stay visible to libpq."""

_SCHEMES = ("postgresql://", "postgres://")
_EXAMPLE = "Set it like DATABASE_URL=postgresql://user:password@127.0.0.1:5432/userhooks"
_ENCODE = "In a password, write @ as %40, : as %3A and / as %2F."
_UNKNOWN_PART = re.compile(r'invalid (?:URI query parameter|connection option)[: ]+"(\w+)"')


# --- addresses ---------------------------------------------------------------------------------------------------------


def parse(url: str) -> dict[str, Any]:
    """Return the parts of a connection string by libpq's names. Raises ConfigurationError, which never contains a password."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error as error:
        raise _not_understood(str(error), url) from None
    hosts, ports = (str(parts.get(name) or "").split(",") for name in ("host", "port"))
    if url.startswith(_SCHEMES) and any("@" in host for host in hosts):
        raise ConfigurationError("DATABASE_URL has more than one @ before its host.", f"{_ENCODE} {_EXAMPLE}")
    for port in ports:
        if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ConfigurationError("DATABASE_URL has a port that is not a number from 1 to 65535.", f"{_ENCODE} {_EXAMPLE}")
    if len(ports) not in (1, len(hosts)):
        what = f"DATABASE_URL names {len(hosts)} hosts and {len(ports)} ports."
        raise ConfigurationError(what, "Give each host its port, like postgresql://user:password@one:5432,two:5432/userhooks")
    return parts


def complete(url: str, environ: Mapping[str, str]) -> str:
    """Return `DATABASE_URL` with missing parts for server, identity, and TLS taken from libpq's variables. Raises ConfigurationError.

    If the URL contains a host, the server's other parts are not taken from variables, so that `PGHOSTADDR` cannot redirect the connection.
    If it contains a service, nothing is.
    """
    url = url.strip()
    given = parse(url)
    wanted: tuple[str, ...] = (*_WHO, *_TRUST)
    if "service" in given:
        wanted = ()
    elif "host" not in given and "hostaddr" not in given:
        wanted = (*_WHERE, *wanted)
    found = {key: environ[_VARIABLES[key]] for key in wanted if key not in given and environ.get(_VARIABLES[key])}
    return make_conninfo(url, **found) if found else url


def servers(parts: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the host and port of each server in a connection string, in order."""
    hosts = str(parts.get("host") or parts.get("hostaddr") or "localhost").split(",")
    ports = str(parts.get("port") or 5432).split(",")
    return [
        (host or "localhost", int(port or 5432)) for host, port in zip(hosts, ports if len(ports) > 1 else ports * len(hosts), strict=True)
    ]


def _not_understood(reason: str, url: str) -> ConfigurationError:
    """Return the error for a string that libpq cannot parse. It leaves out what libpq quotes, which may contain a password."""
    unknown = _UNKNOWN_PART.search(reason)
    if unknown is not None:
        name = unknown.group(1)
        what = f"DATABASE_URL sets {name}, which is not a parameter of Postgres."
        return ConfigurationError(what, f"Remove {name}=… from it: it belongs to another library.")
    if not url.startswith(_SCHEMES):
        return ConfigurationError("DATABASE_URL is not a Postgres address: it does not begin with postgresql://.", _EXAMPLE)
    said = reason.partition('"')[0].strip(" :").removesuffix(" in")
    return ConfigurationError(f"DATABASE_URL is not a Postgres address: {said}.", f"{_ENCODE} {_EXAMPLE}")


def conninfo(url: str, *, application_name: str, settings: Mapping[str, str], replication: bool = False) -> str:
    """Return the connection string with these `settings` added, which override any options it already has."""
    given = parse(url)
    options = [given["options"]] if given.get("options") else []
    options += [f"-c {name}={_escaped(value)}" for name, value in settings.items()]
    defaults: dict[str, Any] = {name: value for name, value in _NETWORK.items() if name not in given}
    if replication:
        defaults["replication"] = "database"
    return make_conninfo(url, application_name=application_name, client_encoding="UTF8", options=" ".join(options), **defaults)


def _escaped(value: str) -> str:
    return re.sub(r"([\\ ])", r"\\\1", value)


# --- connections -------------------------------------------------------------------------------------------------------


def connect(url: str, *, application_name: str = "userhooks", autocommit: bool = False) -> psycopg.Connection[Any]:
    """Connect with the settings of every session and a search path that includes our tables. Raises psycopg's errors."""
    whole = conninfo(url, application_name=application_name, settings={**SETTINGS, "search_path": _SEARCH_PATH})
    with _no_variables():
        connection = psycopg.connect(whole, autocommit=True)
    try:
        connection.execute(_RESET)
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


async def connect_async(
    url: str, *, application_name: str, settings: Mapping[str, str] | None = None, replication: bool = False
) -> psycopg.AsyncConnection[Any]:
    """Connect with autocommit, the settings of every session, and additional `settings`. Raises psycopg's errors."""
    whole = conninfo(url, application_name=application_name, settings={**SETTINGS, **(settings or {})}, replication=replication)
    with _no_variables():
        connection = await psycopg.AsyncConnection.connect(whole, autocommit=True)
    try:
        await connection.execute(_RESET)
        await connection.execute(_EXTEND_SEARCH_PATH)
    except BaseException:
        await connection.close()
        raise
    return connection


_lock = threading.Lock()
_connecting = 0
_taken: dict[str, str] = {}


@contextmanager
def _no_variables() -> Iterator[None]:
    """Hide all `PG*` variables from libpq in this context.

    This is necessary because a connection string cannot override some of them (`PGTZ`, `PGDATESTYLE`, `PGGEQO`, `PGSERVICE`).
    """
    global _connecting
    with _lock:
        _connecting += 1
        for name in [name for name in os.environ if name.startswith("PG") and name not in _SERVICE_FILES]:
            _taken[name] = os.environ.pop(name)
    try:
        yield
    finally:
        with _lock:
            _connecting -= 1
            if not _connecting:
                for name, value in _taken.items():
                    os.environ.setdefault(name, value)
                _taken.clear()
