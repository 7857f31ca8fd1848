"""Deleting a sink leaves nothing of it in the engine's memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from userhooks.engine.engine import Engine
from userhooks.engine.resources import HttpEndpoint, SinkResource
from userhooks.engine.startup import Config
from userhooks.errors import DatabaseUnavailable

ENDPOINT = HttpEndpoint("the-endpoint", "e", "http", "127.0.0.1", 1)
SINKS = [SinkResource(f"the-sink-{n}", f"user-{n}", ENDPOINT.id) for n in range(3)]


def places_of(ids: Iterable[str], root: Any) -> list[str]:
    """Return the attribute paths under which the engine's objects contain one of these ids."""
    wanted, found, seen = set(ids), [], set()
    open_places: deque[tuple[str, Any]] = deque([("engine", root)])
    while open_places:
        path, one = open_places.popleft()
        if isinstance(one, str):
            if one in wanted:
                found.append(path)
        elif id(one) not in seen:
            seen.add(id(one))
            if isinstance(one, dict):
                open_places += [(f"{path}[key]", key) for key in one] + [(f"{path}[value]", value) for value in one.values()]
            elif isinstance(one, (list, tuple, set, frozenset, deque)):
                open_places += [(f"{path}[]", value) for value in one]
            elif type(one).__module__.startswith("userhooks.engine"):
                slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
                names = {*slots, *getattr(one, "__dict__", {})}
                open_places += [(f"{path}.{name}", getattr(one, name, None)) for name in names]
    return found


@pytest.mark.parametrize("postgres_answers", [True, False], ids=["deleted", "never-created"])
def test_the_engine_holds_no_id_of_a_sink_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, postgres_answers: bool) -> None:
    async def run() -> tuple[list[str], list[str]]:
        engine = Engine(Config(0, 0, "token", "postgresql://127.0.0.1:1/none", tmp_path / "engine.db"))

        async def position(_: Any) -> int:
            if not postgres_answers:
                raise DatabaseUnavailable("Postgres does not answer.", "Start it.")
            return 1

        monkeypatch.setattr(engine.admin, "ask", position)
        ids = [sink.id for sink in SINKS]
        during: list[str] = []
        try:
            await engine.registry.create([ENDPOINT], SINKS)
            during = places_of(ids, engine)
            await engine.registry.delete_sinks(ids)
        except DatabaseUnavailable:
            assert not postgres_answers
        after = places_of(ids, engine)
        await engine.close()
        return during, after

    during, after = asyncio.run(run())
    assert bool(during) == postgres_answers
    assert after == []
