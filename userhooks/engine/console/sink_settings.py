"""What the console shows of a sink's settings, without secrets: its user, its masked URL, and its settings by name. Pure."""

from __future__ import annotations

import re

from userhooks.engine import exact_json
from userhooks.engine.api.responses import url_of
from userhooks.engine.resources import HttpEndpoint, SinkResource

MASK = "••••"
USER = "user_id"
"""The annotation that names a sink's user."""
_WORD = re.compile(r"[A-Za-z][A-Za-z_-]{0,19}|v[0-9]{1,2}")
"""A path segment that is too plain to be a secret."""


def user_of(sink: SinkResource) -> str | None:
    """Return the user that a sink's annotations name; None without such an annotation."""
    user = sink.annotations.get(USER)
    return None if user is None else user if isinstance(user, str) else exact_json.dumps(user).decode()


def masked_url(sink: SinkResource, endpoint: HttpEndpoint) -> tuple[str, bool]:
    """Return the URL of a sink's webhooks without possible secrets, and whether anything is masked.

    A path can be a secret, as in `/in/<token>`. Only its first segment is shown, and only if it is a plain word.
    """
    path, query = _path(sink, endpoint)
    segments = path.split("/")[1:]
    shown = [segment if not segment or (i == 0 and _WORD.fullmatch(segment)) else MASK for i, segment in enumerate(segments)]
    masked = "".join(f"/{segment}" for segment in shown) + (f"?{MASK}" if query else "")
    return _origin(endpoint) + masked, MASK in masked


def full_url(sink: SinkResource, endpoint: HttpEndpoint) -> str:
    """Return the URL of a sink's webhooks with its path and query string."""
    path, query = _path(sink, endpoint)
    return _origin(endpoint) + path + (f"?{query}" if query else "")


def _origin(endpoint: HttpEndpoint) -> str:
    return url_of(HttpEndpoint(endpoint.id, endpoint.name, endpoint.scheme, endpoint.host, endpoint.port))


def _path(sink: SinkResource, endpoint: HttpEndpoint) -> tuple[str, str]:
    """Return the path with its query string, as requests have it (`delivery/request_head.py`)."""
    target = (endpoint.path or "") + (f"?{endpoint.query}" if endpoint.query else "")
    if sink.path:
        target = target.removesuffix("/") + sink.path
    path, _, query = target.partition("?")
    return path if path.startswith("/") or not path else f"/{path}", query


def settings(sink: SinkResource, endpoint: HttpEndpoint) -> dict[str, str]:
    """Return a sink's settings as text by name, without its URL and the values of headers."""
    headers = sorted([*endpoint.headers, *endpoint.encrypted_headers])
    columns = [
        f"{column.column_name} {column.operator} {'' if column.value is None else column.value}".strip() for column in sink.filters or ()
    ]
    source = sink.source
    tables = [".".join(name) for name in source.include_tables or ()]
    shown = {
        "Id": sink.id,
        "HTTP endpoint": endpoint.name,
        "Headers": ", ".join(f"{name}: …" for name in headers),
        "Tables": ", ".join(tables) if source.include_tables is not None else "all in the publication",
        "Excluded tables": ", ".join(".".join(name) for name in source.exclude_tables or ()),
        "Schemas": ", ".join(source.include_schemas or ()),
        "Excluded schemas": ", ".join(source.exclude_schemas or ()),
        "Actions": ", ".join(sink.actions),
        "Filter": " and ".join(columns) if sink.filters is not None else sink.filter or "none",
        "Transform": sink.transform or "none",
        "Annotations": exact_json.dumps(dict(sink.annotations)).decode() if sink.annotations else "",
        "Messages per request": f"at most {sink.batch_size}" if sink.batch else "1, not wrapped in a batch",
        "Order": "kept within each group" if sink.message_grouping else "not kept",
        "Attempts": "no limit" if sink.max_retry_count is None else f"at most {sink.max_retry_count}",
        "Timestamps": sink.timestamp_format,
    }
    return {name: value for name, value in shown.items() if value}
