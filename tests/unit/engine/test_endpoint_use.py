"""Finding the sinks that use an endpoint does not scan all sinks, of which there may be a hundred thousand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest

from tests.unit.engine import simulated
from tests.unit.engine.test_gone_model import TOKEN, Run, SimulatedEngine
from userhooks.engine.apps import management_app
from userhooks.engine.resources import SinkResource


class NotToBeListed(dict[str, SinkResource]):
    """A dict that allows lookups but not iteration."""

    def _refuse(self) -> NoReturn:
        raise AssertionError("all sinks are looked at")

    __iter__ = keys = values = items = _refuse  # type: ignore[assignment]


def test_deleting_and_moving_an_endpoint_looks_at_its_own_sinks_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(1)

    async def live() -> None:
        engine = SimulatedEngine(run)
        await engine.start()
        transport = httpx.ASGITransport(management_app(engine))
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7376", headers=headers) as http:

            async def call(method: str, path: str, body: Any = None) -> tuple[int, str]:
                answer = await http.request(method, f"/api/{path}", json=body)
                return answer.status_code, answer.text

            for name in ("a", "b", "c"):
                assert (await call("POST", "destinations/http_endpoints", {"name": name, "url": f"http://{name}/"}))[0] == 200
                sink = {"name": f"at-{name}", "database": "postgres", "destination": {"type": "webhook", "http_endpoint": name}}
                assert (await call("POST", "sinks", sink))[0] == 200
            assert (await call("PATCH", "sinks/at-a", {"destination": {"type": "webhook", "http_endpoint": "b"}}))[0] == 200
            assert (await call("DELETE", "sinks/at-c"))[0] == 200
            engine.catalog.sinks = NotToBeListed(engine.catalog.sinks)
            assert (await call("PATCH", "destinations/http_endpoints/b", {"url": "http://moved/"}))[0] == 200
            assert (await call("DELETE", "destinations/http_endpoints/a"))[0] == 200
            assert (await call("DELETE", "destinations/http_endpoints/c"))[0] == 200
            status, text = await call("DELETE", "destinations/http_endpoints/b")
            assert (status, "in use by 2 sink consumer(s)" in text) == (400, True)
        engine._store.close()

    simulated.run(run.clock, live())
