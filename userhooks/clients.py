"""The clients of one running stack as one value, for the layers below `stack/`; making them, and the stack's processes, live there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from userhooks.inspector.client import InspectorClient
    from userhooks.settings import Settings
    from userhooks.webhooks.database import Database
    from userhooks.webhooks.sequin_client import SequinClient
    from userhooks.webhooks.subscriptions import Subscriptions


@dataclass(frozen=True)
class Clients:
    """Hold what a lesson needs of a running stack. Made by `Stack.clients`.

    `database_url` includes the password, and every subscription's secret is derived from `home_key`. `start` starts what is down;
    `kill` and `restart` take the name of one part, as the methods of `Stack` do.
    """

    settings: Settings
    database_url: str
    home_key: bytes
    database: Database
    sequin: SequinClient
    inspector: InspectorClient
    subscriptions: Subscriptions
    start: Callable[[], object]
    kill: Callable[[str], object]
    restart: Callable[[str], object]
