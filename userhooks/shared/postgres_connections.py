"""How every program here connects to Postgres: the address, the session's settings, and which `PG*` variables count for which of them.

libpq fills what an address leaves out from the environment, and sends some variables (`PGTZ`, `PGOPTIONS`) as settings of the session,
where they win over anything else. So the environment is read once, with `DATABASE_URL` (`complete`), and only for where, who and trust.
From then on an address is complete: while libpq connects, it sees no `PG*` variable. What is asked over a connection lives elsewhere.
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
    # the text form of values, as the engine's encoders and psycopg expect it
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    # how statements are read
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "row_security": "off",  # a query that a policy would filter is an error: fewer rows than there are is never right here
    # nothing of ours ends because it waits; those who want a limit set it themselves
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "client_min_messages": "notice",
}
"""Settings of every session, against what the role, the database or the server sets. Postgres takes them with the connection."""

_RESET = """
select set_config(name, value, false)
  from (values ('idle_session_timeout', '0'), ('transaction_timeout', '0'), ('session_replication_role', 'origin')) reset (name, value)
 where current_setting(name, true) <> value
"""
"""Settings that not every version knows (14 and 17 on), or not every role may set: changed only where they differ"""

_SEARCH_PATH = '"$user", public'
_EXTEND_SEARCH_PATH = "select set_config('search_path', 'pg_catalog, ' || current_setting('search_path') || ', public', false)"
"""The engine reads people's own types, whose operators are where the role's path says; but no table of theirs may pass for a catalog"""

_NETWORK: Mapping[str, int] = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""How soon a server that is gone is noticed (seconds; the last in ms), unless the address says otherwise"""

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
"""Part of an address -> libpq's variable for it; those that are not here never count"""
_SERVICE_FILES = ("PGSERVICEFILE", "PGSYSCONFDIR")
"""Variables that say where an address with `service=` is looked up, and nothing else"""

_SCHEMES = ("postgresql://", "postgres://")
_EXAMPLE = "Set it like DATABASE_URL=postgresql://user:password@127.0.0.1:5432/userhooks"
_ENCODE = "In a password, write @ as %40, : as %3A and / as %2F."
_UNKNOWN_PART = re.compile(r'invalid (?:URI query parameter|connection option)[: ]+"(\w+)"')


# --- addresses ---------------------------------------------------------------------------------------------------------


def parse(url: str) -> dict[str, Any]:
    """Return the parts of an address by libpq's names; raises ConfigurationError, which never holds a password."""
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
    """Return `DATABASE_URL` with what it leaves out of where, who and trust taken from libpq's variables; raises ConfigurationError.

    An address that names a host or a service is complete in that: `PGHOSTADDR` does not lead it elsewhere.
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
    """Return (host, port) of each server that an address names, in order."""
    hosts = str(parts.get("host") or parts.get("hostaddr") or "localhost").split(",")
    ports = str(parts.get("port") or 5432).split(",")
    return [
        (host or "localhost", int(port or 5432)) for host, port in zip(hosts, ports if len(ports) > 1 else ports * len(hosts), strict=True)
    ]


def _not_understood(reason: str, url: str) -> ConfigurationError:
    """Report what libpq could not parse, without its quotes, which may be a password; the name of an unknown parameter is safe."""
    unknown = _UNKNOWN_PART.search(reason)
    if unknown is not None:
        name = unknown.group(1)
        what = f"DATABASE_URL sets {name}, which Postgres' own programs do not know."
        return ConfigurationError(what, f"Remove {name}=… from it: it belongs to another library.")
    if not url.startswith(_SCHEMES):
        return ConfigurationError("DATABASE_URL is not a Postgres address: it does not begin with postgresql://.", _EXAMPLE)
    said = reason.partition('"')[0].strip(" :").removesuffix(" in")
    return ConfigurationError(f"DATABASE_URL is not a Postgres address: {said}.", f"{_ENCODE} {_EXAMPLE}")


def conninfo(url: str, *, application_name: str, settings: Mapping[str, str], replication: bool = False) -> str:
    """Return the whole connection string: the address, then `settings`, which win over the address' own options."""
    given = parse(url)
    options = [given["options"]] if given.get("options") else []
    options += [f"-c {name}={_escaped(value)}" for name, value in settings.items()]
    more: dict[str, Any] = {name: value for name, value in _NETWORK.items() if name not in given}
    if replication:
        more["replication"] = "database"
    return make_conninfo(url, application_name=application_name, client_encoding="UTF8", options=" ".join(options), **more)


def _escaped(value: str) -> str:
    return re.sub(r"([\\ ])", r"\\\1", value)


# --- connections -------------------------------------------------------------------------------------------------------


def connect(url: str, *, application_name: str = "userhooks", autocommit: bool = False) -> psycopg.Connection[Any]:
    """Connect with the settings of every session, in a path where our tables are found; raises psycopg's errors."""
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
    """Connect with autocommit, the settings of every session and these; raises psycopg's errors."""
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
    """Keep libpq from seeing any `PG*` variable meanwhile.

    For some of them (`PGTZ`, `PGDATESTYLE`, `PGGEQO`, `PGSERVICE`) nothing in an address can stand in their place.
    """
    global _connecting
    with _lock:
        _connecting += 1
        for name in [one for one in os.environ if one.startswith("PG") and one not in _SERVICE_FILES]:
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
