"""Webhooks with Sequin that tell each user of an app about changes to the user's own rows in Postgres.

The package exports the names that notebooks use. Each is imported on first access, to keep `import userhooks` fast.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from userhooks.errors import (
        ConfigurationError,
        DatabaseUnavailable,
        DatabaseUnsuitable,
        DeliveriesMissing,
        Forbidden,
        InvalidInput,
        NotFound,
        NotRunning,
        SequinError,
        SequinFailed,
        SequinInvalid,
        SequinMismatch,
        SequinNotFound,
        SequinUnauthorized,
        SequinUnreachable,
        UserhooksError,
    )
    from userhooks.inspector.client import Inbox
    from userhooks.inspector.messages import Message
    from userhooks.ledger.report import Ledger
    from userhooks.lessons.lesson import Lesson
    from userhooks.plots import diagrams
    from userhooks.settings import Settings
    from userhooks.stack.stack import Stack
    from userhooks.stack.status import StackStatus
    from userhooks.webhooks.sequin_client import SequinClient
    from userhooks.webhooks.subscriptions import Subscription

if sys.platform == "win32":
    raise ImportError("userhooks runs on Linux and macOS; on Windows use it inside WSL 2 (wsl --install).")

__version__ = "0.1.0"
"""The version, used in the package's metadata and in the `user-agent` header of webhooks."""

__all__ = [
    "ConfigurationError",
    "DatabaseUnavailable",
    "DatabaseUnsuitable",
    "DeliveriesMissing",
    "Forbidden",
    "Inbox",
    "InvalidInput",
    "Ledger",
    "Lesson",
    "Message",
    "NotFound",
    "NotRunning",
    "SequinClient",
    "SequinError",
    "SequinFailed",
    "SequinInvalid",
    "SequinMismatch",
    "SequinNotFound",
    "SequinUnauthorized",
    "SequinUnreachable",
    "Settings",
    "Stack",
    "StackStatus",
    "Subscription",
    "UserhooksError",
    "diagrams",
]

_MODULES = {
    "Inbox": "userhooks.inspector.client",
    "Ledger": "userhooks.ledger.report",
    "Lesson": "userhooks.lessons.lesson",
    "Message": "userhooks.inspector.messages",
    "SequinClient": "userhooks.webhooks.sequin_client",
    "Settings": "userhooks.settings",
    "Stack": "userhooks.stack.stack",
    "StackStatus": "userhooks.stack.status",
    "Subscription": "userhooks.webhooks.subscriptions",
    "diagrams": "userhooks.plots",
}
"""Module of each name in `__all__`; names that are not listed are in `userhooks.errors`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'userhooks' has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "userhooks.errors")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
