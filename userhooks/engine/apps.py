"""The ASGI apps for the engine's two ports: one serves the API and the console, the other the metrics page."""

from __future__ import annotations

from starlette.applications import Starlette

from userhooks.engine.api.handlers import ERROR_PAGES, Api, EmptySegments
from userhooks.engine.api.prometheus import metrics_route
from userhooks.engine.console.routes import Console
from userhooks.engine.engine import Engine
from userhooks.web.host_guard import HostGuard


def management_app(engine: Engine) -> HostGuard:
    """Return the app for Sequin's port: the Management API and the console."""
    port = engine.config.port
    api = Api(
        engine.catalog,
        registry=engine.registry,
        keys=engine.keys,
        backfills=engine.backfills,
        tables=engine.tables,
        health=engine.health,
        monitor=engine.monitor,
    )
    console = Console(
        engine.catalog,
        registry=engine.registry,
        deliveries=engine.deliveries,
        backfills=engine.backfills,
        monitor=engine.monitor,
        config=engine.config,
    )
    app = Starlette(routes=[*console.routes(), *api.routes()], exception_handlers=ERROR_PAGES)
    return HostGuard(EmptySegments(app), [f"http://127.0.0.1:{port}"])


def metrics_app(engine: Engine) -> HostGuard:
    """Return the app for the metrics port, which serves only `/metrics`."""
    app = Starlette(routes=[metrics_route(engine.catalog, engine.monitor)])
    return HostGuard(app, [f"http://127.0.0.1:{engine.config.metrics_port}"])
