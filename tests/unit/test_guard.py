"""Which hosts are allowed when the inspector listens on an address chosen by the user."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from userhooks.settings import Settings
from userhooks.stack.home import Home
from userhooks.stack.supervisor import describe
from userhooks.web.host_guard import HostGuard


async def fine(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def status_at(url: str) -> int:
    async def get() -> int:
        transport = httpx.ASGITransport(app=HostGuard(fine, [url]))
        async with httpx.AsyncClient(transport=transport) as client:
            return (await client.get(url, headers={"Origin": url})).status_code

    return asyncio.run(get())


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:3334"),
        ("0.0.0.0", "http://127.0.0.1:3334"),  # noqa: S104
        ("::", "http://127.0.0.1:3334"),
        ("192.168.1.7", "http://192.168.1.7:3334"),
        ("::1", "http://[::1]:3334"),
        ("fd00::1", "http://[fd00::1]:3334"),
        ("FD00:0:0::1", "http://[fd00::1]:3334"),
    ],
)
def test_the_address_that_status_shows_is_let_in(tmp_path: Any, bind: str, url: str) -> None:
    settings = Settings(tmp_path, inspector_bind=bind)
    shown = describe(settings, Home(tmp_path), settings.ports, pids={}, ready=False, version=None).inspector.url
    assert shown == url
    assert status_at(shown) == 200
