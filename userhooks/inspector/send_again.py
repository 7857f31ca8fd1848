"""Sends a received request once more, as it was, to an inbox of this inspector: over HTTP, as any sender does."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

from userhooks.inspector.request_store import Recorded, header_pairs

SECONDS = 10.0
"""How long the answer is waited for; an inbox may be set to hang."""

_ABOUT_THE_CONNECTION = ("connection", "content-length", "expect", "host", "keep-alive", "transfer-encoding", "upgrade")


async def send_again(recorded: Recorded, target: str, inspector: str) -> int | None:
    """Send it to the inbox `target`; returns the status of the answer, or None when there was none.

    Method, what follows the inbox in the path, query, headers and body are as received; only what belonged to the former connection is new.
    `inspector` is a URL like `http://127.0.0.1:3334`: nothing but this inspector is ever dialled.
    """
    address = urlsplit(inspector)
    path, query = recorded.path.decode("latin-1"), recorded.query.decode("latin-1")
    beyond = "".join(f"/{part}" for part in path.split("/", 3)[3:]) + (f"?{query}" if query else "")
    headers = [header for header in header_pairs(recorded.headers) if header[0] not in _ABOUT_THE_CONNECTION]
    headers += [("host", address.netloc), ("content-length", str(len(recorded.body))), ("connection", "close")]
    lines = [f"{recorded.method} /in/{target}{beyond} HTTP/1.1", *(f"{name}:{value}" for name, value in headers), "", ""]
    writer = None
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write("\r\n".join(lines).encode("latin-1"))
            writer.write(recorded.body)
            await writer.drain()
            status = (await reader.readline()).split(b" ")
    except (TimeoutError, OSError):
        return None
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return int(status[1]) if len(status) > 1 else None
