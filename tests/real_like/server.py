"""The stand-in as tests run it: in a separate process, on a database that is prepared as `sequin.yaml` specifies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import yaml

from tests.engine_program import EngineProgram
from tests.ports import free_port
from tests.real_like.program import THIS_MACHINE
from tests.stack.conftest import Installation

ROOT = Path(__file__).parents[2]
_CHANGE = re.compile(r"(\w+) (/api/\S+), then (\d+) sinks$", re.MULTILINE)
IN_SEQUIN: dict[str, Any] = yaml.safe_load((ROOT / "sequin.yaml").read_text(encoding="utf-8"))["databases"][0]


class ApiChange(NamedTuple):
    """A call other than a GET, and the number of sinks after it."""

    method: str
    path: str
    sinks: int


def api_changes(server: EngineProgram) -> list[ApiChange]:
    """List the calls that changed something on the stand-in, in order."""
    return [ApiChange(method, path, int(sinks)) for method, path, sinks in _CHANGE.findall(server.log.read_text(encoding="utf-8"))]


@contextmanager
def real_like_server(database_url: str, folder: Path, *, pace: float, seed: int = 1) -> Iterator[EngineProgram]:
    """Run the stand-in; `pace` multiplies every wait of a real server, so 1 is its real speed."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(IN_SEQUIN["publication"]["init_sql"].encode())
    server = EngineProgram(
        database_url,
        folder,
        publication=IN_SEQUIN["publication"]["name"],
        slot=IN_SEQUIN["slot"]["name"],
        database_name=IN_SEQUIN["name"],
        pace=pace,
        seed=seed,
    )
    server.start(module=("-m", "tests.real_like.program"))
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def installation_on(server: EngineProgram, database_url: str, home: Path) -> Iterator[Installation]:
    """Create an installation that uses this Sequin and this database, through the variables in the README, and remove it afterward.

    As with `compose.yaml`, only the server can resolve the host name in the inboxes' URLs.
    """
    inspector_port = free_port()
    installation = Installation(
        home,
        DATABASE_URL=database_url,
        SEQUIN_URL=server.url,
        SEQUIN_API_TOKEN=server.token,
        SEQUIN_METRICS_URL=f"http://127.0.0.1:{server.config['metrics_port']}/metrics",
        USERHOOKS_INSPECTOR_PORT=str(inspector_port),
        USERHOOKS_INSPECTOR_PUBLIC_URL=f"http://{THIS_MACHINE}:{inspector_port}",
    )
    try:
        yield installation
    finally:
        installation.remove()
