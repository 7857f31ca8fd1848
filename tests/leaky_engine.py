"""An engine that sends every change to every sink, which the ledger and the demo must detect.

python -m tests.leaky_engine        started like the engine, with the configuration on stdin
"""

from __future__ import annotations

from userhooks.engine import __main__ as program
from userhooks.engine.change import Change
from userhooks.engine.routing import Route, Router, TableRoutes


def everything_to_everybody(router: Router) -> None:
    routes: dict[str, Route] = {}
    add, remove = router.add, router.remove

    def recording_add(route: Route) -> None:
        add(route)  # removes the previous route first
        routes[route.sink_id] = route

    def recording_remove(sink_id: str) -> None:
        routes.pop(sink_id, None)
        remove(sink_id)

    router.add, router.remove = recording_add, recording_remove  # type: ignore[method-assign]

    def match(self: TableRoutes, change: Change) -> tuple[list[Route], list[tuple[Route, str]]]:
        return [route for route in routes.values() if change.commit_lsn >= route.start_lsn], []

    TableRoutes.match = match  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    original = Router.__init__

    def leaky_init(self: Router) -> None:
        original(self)
        everything_to_everybody(self)

    Router.__init__ = leaky_init  # type: ignore[method-assign]
    program.main()
