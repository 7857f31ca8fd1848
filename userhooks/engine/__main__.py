"""Run the engine as a program: read the configuration from stdin, then serve the Management API and the metrics page on two ports.

The engine itself is in `engine.py`.
"""

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
"""Thresholds for the garbage collector. Python's defaults (700, 10, 10) add 6% to the cost of each message."""


def main() -> None:
    """Read the configuration line, then run until the supervisor stops this program or exits."""
    gc.set_threshold(*COLLECT_AFTER)
    settings = read_config()
    config = Config(**{**settings, "store": Path(settings["store"])})
    api = listen("127.0.0.1", config.port, PORT_VARIABLES["sequin"])
    metrics = listen("127.0.0.1", config.metrics_port, PORT_VARIABLES["metrics"])
    run(_serve(config, api, metrics))


async def _serve(config: Config, api: socket.socket, metrics: socket.socket) -> None:
    engine = Engine(config)
    try:
        await engine.start()
    except StoreMismatch as exc:
        fail(
            f"The engine's state in {config.store} belongs to another database: {exc}. "
            "Use the home folder that belongs to this database, or delete the file to start over."
        )
    try:
        await serve_until_stopped([(management_app(engine), api), (metrics_app(engine), metrics)])
    finally:
        await engine.close()


if __name__ == "__main__":
    main()
