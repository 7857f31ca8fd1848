"""Send a received request again, over HTTP, to an inbox of this inspector."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from urllib.parse import urlsplit

from userhooks.inspector.request_store import Recorded, header_pairs

SECONDS = 10.0
"""Seconds to wait for a response, since an inbox may be set to hang."""

_ABOUT_THE_CONNECTION = frozenset(
    "connection content-length expect host keep-alive proxy-authorization proxy-connection te trailer transfer-encoding upgrade".split()
)
"""Headers that are about the original connection, so they are not sent again."""


async def send_again(recorded: Recorded, target: str, inspector: str) -> int | None:
    """Send a recorded request to the inbox `target`, and return the response's status, or None if there is no response.

    The method, the path below the inbox, the query, the headers, and the body are as received. Headers about the connection are left out.
    `inspector` is a URL like `http://127.0.0.1:3334`; this function connects only to it.
    """
    address = urlsplit(inspector)
    path, query = recorded.path.decode("latin-1"), recorded.query.decode("latin-1")
    path_and_query = "".join(f"/{part}" for part in path.split("/", 3)[3:]) + (f"?{query}" if query else "")
    target_path = f"/in/{target}{path_and_query}"
    writer = None
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(request_head(recorded.method, target_path, header_pairs(recorded.headers), address.netloc, len(recorded.body)))
            writer.write(recorded.body)
            await writer.drain()
            status_line = (await reader.readline()).split(b" ")
    except (TimeoutError, OSError):
        return None
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return int(status_line[1]) if len(status_line) > 1 else None


def request_head(method: str, target: str, headers: Iterable[tuple[str, str]], host: str, size: int) -> bytes:
    """Return the head of a request that repeats a received one, for a new connection to `host` that is closed after the response.

    `target` is the path and query. `headers` are the received headers, with names in lower case; those about the original connection are
    replaced or left out. `size` is the length of the body in bytes.
    """
    headers = list(headers)
    dropped = {name.strip().lower() for header, value in headers if header == "connection" for name in value.split(",")}
    kept = [(name, value) for name, value in headers if name not in _ABOUT_THE_CONNECTION and name not in dropped]
    kept += [("host", host), ("content-length", str(size)), ("connection", "close")]
    return "\r\n".join([f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in kept), "", ""]).encode("latin-1")
