"""Run the stand-in: configuration on stdin as for the engine, with `pace` and `seed` besides.

python -m tests.real_like.program
"""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path
from typing import Any

from tests.real_like.capture import (
    Past,
    RealLikeBackfills,
    RealLikeEngine,
    RealLikeMonitor,
    RealLikeReader,
    RealLikeRegistry,
    RealLikeRunner,
    remember,
)
from tests.real_like.delivery import RealLikeDelivery
from tests.real_like.manners import Manners
from tests.real_like.pages import MetricsPage, SlowApi
from userhooks.engine import engine
from userhooks.engine.apps import management_app
from userhooks.engine.backfill import manager
from userhooks.engine.delivery import request_head, sink_delivery
from userhooks.engine.startup import Config
from userhooks.settings import PORT_VARIABLES
from userhooks.shared.child_process import listen, read_config, run, serve_until_stopped

THIS_MACHINE = "host.docker.internal"
"""The name by which a server in a container knows the machine; on Linux the machine itself does not know it."""


def main() -> None:
    """Put the real one's manners in place of the engine's, and run until stdin is closed."""
    given = read_config()
    manners, rng = Manners(given.pop("pace")), random.Random(given.pop("seed"))
    config = Config(**{**given, "store": Path(given["store"]), "retry_base": manners.pace})
    past = Past(manners.read_again)
    for part in (RealLikeDelivery, RealLikeReader, RealLikeBackfills, RealLikeRunner, RealLikeRegistry, RealLikeEngine):
        part.manners = manners  # type: ignore[attr-defined]
    RealLikeBackfills.rng = rng
    RealLikeRegistry.past = past
    remember(past)
    engine.SinkDelivery, engine.SlotReader, engine.Backfills = RealLikeDelivery, RealLikeReader, RealLikeBackfills  # type: ignore[misc]
    engine.SinkRegistry, engine.Monitor = RealLikeRegistry, RealLikeMonitor  # type: ignore[misc]
    manager.BackfillRunner = RealLikeRunner  # type: ignore[misc]
    sink_delivery.IN_FLIGHT_PER_SINK = manners.in_flight
    request_head.USER_AGENT = manners.user_agent
    _know(THIS_MACHINE)
    api = listen("127.0.0.1", config.port, PORT_VARIABLES["sequin"])
    metrics = listen("127.0.0.1", config.metrics_port, PORT_VARIABLES["metrics"])
    run(_serve(config, api, metrics))


def _know(host: str) -> None:
    """Resolve this name to loopback, here only, as the `extra_hosts` of `compose.yaml` do."""
    resolve = socket.getaddrinfo

    def getaddrinfo(name: Any, *args: Any, **kwargs: Any) -> Any:
        return resolve("127.0.0.1" if name == host else name, *args, **kwargs)

    socket.getaddrinfo = getaddrinfo


async def _serve(config: Config, api: socket.socket, metrics: socket.socket) -> None:
    engine = RealLikeEngine(config)
    await engine.start()
    page = MetricsPage(engine)
    health = asyncio.create_task(page.keep_health())
    try:
        await serve_until_stopped([(SlowApi(management_app(engine), engine), api), (page.app, metrics)])
    finally:
        health.cancel()
        await engine.close()


if __name__ == "__main__":
    main()
