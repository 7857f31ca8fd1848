"""Run the inspector with `python -m userhooks.inspector`.

This module reads the configuration; app.py builds the app.
"""

from __future__ import annotations

import time
from pathlib import Path

from userhooks.errors import ConfigurationError
from userhooks.inspector.app import Addresses, Surroundings, build_app
from userhooks.inspector.protocol import BoundedProtocol
from userhooks.inspector.request_store import RequestStore, prepare
from userhooks.settings import PORT_VARIABLES
from userhooks.shared.child_process import fail, own_url, read_config, serve
from userhooks.web.stack_parts import PartAddress


def main() -> None:
    """Read the configuration from stdin, and serve until stopped.

    Keys: `bind`, `port`, `public_url` (or null), `store` (path of the SQLite file), `home_key` (hexadecimal), `token`.
    Optional keys, for the pages: `parts` (URLs of the stack's other parts by name), `console` (an object with `url` and `token`).
    """
    config = read_config()
    bind, port = config["bind"], config["port"]
    local = own_url(bind, port)
    addresses = Addresses(local, (config["public_url"] or local).rstrip("/"))
    path = Path(config["store"])
    try:
        prepare(path)
    except ConfigurationError as error:
        fail(f"{error.what} {error.remedy}")
    parts = [PartAddress(name, url) for name, url in config.get("parts", {}).items()]
    console = config.get("console", {})
    surroundings = Surroundings(parts, console.get("url"), console.get("token"))
    home_key = bytes.fromhex(config["home_key"])
    app = build_app(RequestStore(path), addresses, home_key, config["token"], lambda: time.time_ns() // 1000, surroundings)
    serve(app, bind, port, variable=PORT_VARIABLES["inspector"], http=BoundedProtocol)


if __name__ == "__main__":
    main()
