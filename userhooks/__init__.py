"""Give every user of an app webhooks for their own rows in Postgres, with Sequin.

The names here are what a notebook begins with; each is imported when it is first asked for, so that `import userhooks` loads nothing heavy.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from userhooks.errors import UserhooksError
    from userhooks.plots import diagrams
    from userhooks.settings import Settings
    from userhooks.stack.stack import Stack

if sys.platform == "win32":
    raise ImportError("userhooks runs on Linux and macOS; on Windows use it inside WSL 2 (wsl --install).")

__version__ = "0.1.0"
"""The release; the package's metadata and the `user-agent` of webhooks take it from here."""

__all__ = ["Settings", "Stack", "UserhooksError", "diagrams"]

_MODULES = {
    "Settings": "userhooks.settings",
    "Stack": "userhooks.stack.stack",
    "UserhooksError": "userhooks.errors",
    "diagrams": "userhooks.plots",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'userhooks' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
