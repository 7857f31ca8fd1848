"""Run the stand-in, with the configuration on stdin as for the engine, plus `pace` and `seed`.

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
"""Host name by which a server in a container reaches this machine; on Linux, the machine itself cannot resolve it."""


def main() -> None:
    """Replace the engine's timing with that of a real server, and run until stdin is closed."""
    settings = read_config()
    manners, rng = Manners(settings.pop("pace")), random.Random(settings.pop("seed"))
    config = Config(**{**settings, "store": Path(settings["store"]), "retry_base": manners.pace})
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
    _resolve_to_loopback(THIS_MACHINE)
    api = listen("127.0.0.1", config.port, PORT_VARIABLES["sequin"])
    metrics = listen("127.0.0.1", config.metrics_port, PORT_VARIABLES["metrics"])
    run(_serve(config, api, metrics))


def _resolve_to_loopback(host: str) -> None:
    """Resolve this name to loopback, in this process only, like the `extra_hosts` in `compose.yaml`."""
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
