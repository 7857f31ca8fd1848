"""The secret of a subscription: derivation and comparison. It is never stored."""

from __future__ import annotations

import base64
import hashlib
import hmac


def subscription_secret(home_key: bytes, user_id: int, url: str) -> str:
    """Return the secret that this user's webhooks to this URL send as `Authorization: Bearer …`.

    It is the unpadded base64url of HMAC-SHA256 over the user id, a line feed, and the URL, so every program that has the home key derives
    the same secret.
    """
    digest = hmac.new(home_key, f"{user_id}\n{url}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def authorization_matches(header: str | None, secret: str) -> bool:
    """Return whether a received Authorization header contains the secret, compared in constant time."""
    return header is not None and hmac.compare_digest(header.encode(), f"Bearer {secret}".encode())
