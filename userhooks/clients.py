"""The clients of a running stack as one value, for the layers below `stack/`, which creates them and runs the processes."""

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
    """The clients and settings that a lesson needs from a running stack, created by `Stack.clients`.

    `database_url` includes the password, and every subscription's secret is derived from `home_key`. `start` starts the
    parts that are not running. `kill` and `restart` take the name of one part, like the methods of `Stack`.
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
