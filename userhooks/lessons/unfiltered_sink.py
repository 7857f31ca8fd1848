"""A sink without a filter, created on purpose to show a mistake in lesson 02. There is at most one, and it sends to an inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.sequin_resources import Sink
from userhooks.webhooks.subscription_secret import subscription_secret
from userhooks.webhooks.subscriptions import TABLE

if TYPE_CHECKING:
    from userhooks.inspector.client import Inbox

NAME = "userhooks-without-filter"
"""Name of the sink and of its endpoint. It is fixed, so that any lesson can remove what another one left behind."""


def create_unfiltered_sink(sequin: SequinClient, home_key: bytes, user_id: int, inbox: Inbox) -> Sink:
    """Create a sink that sends the rows of all users to one user's inbox, and wait until it is live. An existing one is replaced."""
    delete_unfiltered_sink(sequin)
    secret = subscription_secret(home_key, user_id, inbox.url)
    try:
        sequin.create_endpoint(NAME, inbox.url, encrypted_headers={"Authorization": f"Bearer {secret}"})
        sink = sequin.create_sink(NAME, endpoint=NAME, include_tables=[TABLE], filter_function="none")
        sequin.wait_until_live([NAME])
        return sink
    except BaseException:
        delete_unfiltered_sink(sequin)
        raise


def delete_unfiltered_sink(sequin: SequinClient) -> None:
    """Delete the sink and its endpoint, if they exist."""
    sequin.delete_sink(NAME)
    sequin.delete_endpoint(NAME)
