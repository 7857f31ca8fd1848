"""The secret of a subscription: how it is derived and compared; nothing stores it."""

from __future__ import annotations

import base64
import hashlib
import hmac


def subscription_secret(home_key: bytes, user_id: int, url: str) -> str:
    """Return the secret that the webhooks of this user to this URL carry as `Authorization: Bearer …`.

    It is base64url (without padding) of HMAC-SHA256 over the user id, a line feed and the URL, so that every program of one home derives
    the same.
    """
    digest = hmac.new(home_key, f"{user_id}\n{url}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def authorization_matches(header: str | None, secret: str) -> bool:
    """Compare a received Authorization header with the secret, in constant time."""
    return header is not None and hmac.compare_digest(header.encode(), f"Bearer {secret}".encode())
