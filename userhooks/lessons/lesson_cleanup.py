"""Removes what a run of a lesson created, and the sinks that other lessons left behind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from userhooks.lessons.unfiltered_sink import delete_unfiltered_sink
from userhooks.webhooks.subscriptions import MISSING

if TYPE_CHECKING:
    from userhooks.clients import Clients
    from userhooks.inspector.client import Inbox

USERS = ("ada", "ben", "cy")
LOAD_USER = "crowd"
"""Name of the users that `userhooks.capacity` creates by the thousand for measurements."""

_LABEL = re.compile(rf"lesson [A-Za-z0-9_-]{{1,40}}: ({'|'.join(USERS)})")
_SCHEMA_PREFIX = "lesson_"
# A lesson's next run has users with the same ids, and a separate Sequin server may send the changes of the last seconds to their new sinks.
# The rows are disowned before they are deleted, so that neither change passes a filter.
_DISOWN = "UPDATE public.notifications SET user_id = NULL WHERE user_id = ANY(%s) RETURNING id"
_DELETE_ROWS = "DELETE FROM public.notifications WHERE id = ANY(%s)"
_DELETE_USERS = "DELETE FROM public.users WHERE id = ANY(%s)"


def labels(name: str) -> dict[str, str]:
    """Map each user of a lesson to the user's name in the table `users`, which is also the name of the user's inbox."""
    return {user: f"lesson {name}: {user}" for user in USERS}


def schema_of(name: str) -> str:
    """Return the name of the Postgres schema for a lesson's tables."""
    return f"{_SCHEMA_PREFIX}{name}"


def remove_lesson(clients: Clients, name: str) -> None:
    """Remove everything that any run of a lesson created: sinks first, to stop deliveries, and the inboxes' contents last."""
    delete_unfiltered_sink(clients.sequin)
    ours = set(labels(name).values())
    users = [user_id for user_id, label in clients.database.users() if label in ours]
    for user_id in users:
        for subscription in clients.subscriptions.list(user_id):
            if subscription.status != MISSING:
                clients.subscriptions.unsubscribe(subscription.sink_name)
    if clients.database.has_schema(schema_of(name)):
        _remove_schema(clients, name)
    with clients.database.connect() as connection:
        disowned = [row_id for (row_id,) in connection.execute(_DISOWN, [users])]
        connection.execute(_DELETE_ROWS, [disowned])
        connection.execute(_DELETE_USERS, [users])
    for inbox in clients.inspector.inboxes():
        if inbox.name in ours:
            inbox.respond()
            inbox.clear()


def remove_sinks_of_lessons(clients: Clients) -> None:
    """Remove the sinks that lessons left behind.

    These are the sinks of their users and of load users, and the sinks on tables in their schemas. A separate Sequin server
    runs every sink's filter for every row, and twenty sinks can bring it down.
    """
    database, sequin = clients.database, clients.sequin
    subscribed = {row.user_id for row in database.subscriptions()}
    users = [user for user, name in database.users() if user in subscribed and (_LABEL.fullmatch(name) or name == LOAD_USER)]
    if users:
        clients.subscriptions.unsubscribe_all(users)
    for sink in sequin.sinks():
        schemas = {table.partition(".")[0] for table in sink.include_tables}
        if schemas and sink.database == sequin.database and all(_is_of_a_lesson(clients, schema) for schema in schemas):
            sequin.delete_sink(sink.id)


def inbox_at(url: str, inboxes: Mapping[str, Inbox]) -> Inbox | None:
    """Return the inbox whose URL is `url` or a parent of it, or None. `inboxes` maps URLs to inboxes."""
    return next((inbox for base, inbox in inboxes.items() if re.match(re.escape(base) + r"(?:[/?]|$)", url)), None)


def _is_of_a_lesson(clients: Clients, schema: str) -> bool:
    return schema.startswith(_SCHEMA_PREFIX) and clients.database.has_schema(schema)


def _remove_schema(clients: Clients, name: str) -> None:
    """Delete the schema, the sinks on its tables, and all endpoints for this lesson's inboxes that are then unused."""
    sequin = clients.sequin
    sinks = sequin.sinks()
    schema_sinks = [sink for sink in sinks if any(table.startswith(f"{schema_of(name)}.") for table in sink.include_tables)]
    for sink in schema_sinks:
        sequin.delete_sink(sink.id)
    ours = set(labels(name).values())
    inboxes = {inbox.url: inbox for inbox in clients.inspector.inboxes() if inbox.name in ours}
    used_endpoints = {sink.endpoint for sink in sinks if sink not in schema_sinks}
    for endpoint in sequin.endpoints():
        if endpoint.name not in used_endpoints and inbox_at(endpoint.url, inboxes):
            sequin.delete_endpoint(endpoint.id)
    clients.database.drop_schema(schema_of(name))
