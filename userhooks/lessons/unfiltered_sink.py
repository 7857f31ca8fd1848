"""A sink without a filter, made on purpose: the mistake that lesson 02 shows. There is one at most, and it leads to an inbox only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.sequin_resources import Sink
from userhooks.webhooks.subscription_secret import subscription_secret
from userhooks.webhooks.subscriptions import TABLE

if TYPE_CHECKING:
    from userhooks.inspector.client import Inbox

NAME = "userhooks-without-filter"
"""Of the sink and of its endpoint. One fixed name, so that whoever begins or ends a lesson can remove it without knowing who made it."""


def open_leak(sequin: SequinClient, home_key: bytes, user_id: int, inbox: Inbox) -> Sink:
    """Send every row of the table, whoever's it is, to this user's inbox; a leak that was open is closed first."""
    close_leak(sequin)
    secret = subscription_secret(home_key, user_id, inbox.url)
    try:
        sequin.create_endpoint(NAME, inbox.url, encrypted_headers={"Authorization": f"Bearer {secret}"})
        sink = sequin.create_sink(NAME, endpoint=NAME, include_tables=[TABLE], filter_function="none")
        sequin.wait_until_live([NAME])
        return sink
    except BaseException:
        close_leak(sequin)
        raise


def close_leak(sequin: SequinClient) -> None:
    """Remove the sink and its endpoint, if they are there."""
    sequin.delete_sink(NAME)
    sequin.delete_endpoint(NAME)
