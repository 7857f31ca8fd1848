"""The Management API when the engine itself fails."""

from __future__ import annotations

import asyncio
import hashlib
from types import SimpleNamespace
from typing import Any

import httpx

from tests.unit.engine.resource_examples import catalog
from userhooks.engine.apps import management_app
from userhooks.engine.resources import ApiKey
from userhooks.engine.startup import Config


async def _fail() -> None:
    raise RuntimeError("the disk is full at /secret/place")


def test_a_fault_of_the_engine_is_a_500_in_sequins_form_that_gives_nothing_away() -> None:
    known = catalog()
    known.api_keys["k"] = ApiKey("k", "Default", hashlib.sha256(b"token").hexdigest(), "t")
    parts = dict.fromkeys(("keys", "backfills", "tables", "health", "deliveries"))
    registry, monitor = SimpleNamespace(writing=asyncio.Lock()), SimpleNamespace(check_database=_fail)
    engine: Any = SimpleNamespace(
        catalog=known, config=Config(7376, 8376, api_token="token", database_url=""), registry=registry, monitor=monitor, **parts
    )

    app: Any = management_app(engine)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7376") as client:
            headers = {"Authorization": "Bearer token"}
            return await client.post("/api/postgres_databases/postgres/test_connection", json={}, headers=headers)

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()) == (500, {"errors": {"detail": "Internal Server Error"}})
