"""The engine as a program: configuration on stdin, the Management API and the metrics page on two ports. What it does is in `engine.py`."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

from userhooks.engine.apps import management_app, metrics_app
from userhooks.engine.engine import Engine
from userhooks.engine.startup import Config
from userhooks.engine.state_store import StoreMismatch
from userhooks.settings import PORT_VARIABLES
from userhooks.shared.child_process import fail, listen, read_config, run, serve_until_stopped

COLLECT_AFTER = 10_000, 20, 20
"""Objects made, and collections of the younger generation, before garbage is looked for: Python's 700, 10, 10 cost 6 % of each message"""


def main() -> None:
    """Read the configuration line and run until the supervisor stops us or is gone."""
    gc.set_threshold(*COLLECT_AFTER)
    given = read_config()
    config = Config(**{**given, "store": Path(given["store"])})
    api = listen("127.0.0.1", config.port, PORT_VARIABLES["sequin"])
    metrics = listen("127.0.0.1", config.metrics_port, PORT_VARIABLES["metrics"])
    run(_serve(config, api, metrics))


async def _serve(config: Config, api: socket.socket, metrics: socket.socket) -> None:
    engine = Engine(config)
    try:
        await engine.start()
    except StoreMismatch as exc:
        fail(
            f"The engine's state in {config.store} belongs to another database: {exc}. Use the home it was made with, or remove that file."
        )
    try:
        await serve_until_stopped([(management_app(engine), api), (metrics_app(engine), metrics)])
    finally:
        await engine.close()


if __name__ == "__main__":
    main()
