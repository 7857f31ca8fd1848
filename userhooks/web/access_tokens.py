"""Access to the pages and APIs of a home: its tokens, and the links and cookies derived from them. Pure.

`host_guard.py` calls this module for each request.

A program sends the token itself as `Authorization: Bearer …`. A browser opens a link and receives a cookie. Links and cookies contain an
expiring signature instead of the token, because links end up in terminals, saved notebooks, and histories, and cookies are sent to every
port of a host.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

LINK_SECONDS = 3600
"""Lifetime of a link. It is long enough to read a lesson before clicking, and short enough for a link to be saved in a notebook."""

COOKIE_SECONDS = 30 * 86400

_FIELD = "token="
_SCHEMES = ("bearer", "token")


def inspector_token(home_key: bytes) -> str:
    """Return the token of the inspector's pages and API. Like subscription secrets, it is derived from the home's key and never stored."""
    return _base64(hmac.digest(home_key, b"the inspector's pages and API", "sha256"))


def key_of(token: str) -> bytes:
    """Return the SHA-256 digest of a token, which is all that a server needs to check it."""
    return hashlib.sha256(token.encode()).digest()


def page_link(url: str, token: str, now: float) -> str:
    """Return a link to a page that gives a browser access for `LINK_SECONDS` from `now` (seconds since 1970)."""
    return f"{url}?{_FIELD}{_signature(key_of(token), 'link', int(now) + LINK_SECONDS)}"


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request is admitted."""


@dataclass(frozen=True, slots=True)
class SentOn:
    """The browser is redirected to the page with this `query`, without a token, and receives the `cookie` if it is not None."""

    query: str
    cookie: str | None


@dataclass(frozen=True, slots=True)
class AccessRefused:
    """The request is refused; `reason` is one sentence."""

    reason: str


def decide(
    keys: Collection[bytes], *, query: str, authorizations: Sequence[str], cookies: Sequence[str], reads: bool, now: float
) -> Admitted | SentOn | AccessRefused:
    """Decide whether a request has access; `keys` are the digests of the valid tokens.

    `authorizations` are the request's Authorization headers, and `cookies` the values of our cookie, all decoded as Latin-1. `reads` is
    true if the method is GET or HEAD; a token in the query is valid only then.
    """
    if authorizations:
        scheme, _, given = authorizations[0].partition(" ")
        right = len(authorizations) == 1 and scheme.lower() in _SCHEMES and _is_token(keys, given.strip())
        return Admitted() if right else AccessRefused("The token in the Authorization header is wrong.")
    has_cookie = any(_is_signed(keys, "cookie", cookie, now) for cookie in cookies)
    fields = query.split("&")
    in_query = [field.removeprefix(_FIELD) for field in fields if field.startswith(_FIELD)]
    if not (reads and in_query):
        return Admitted() if has_cookie else AccessRefused("A token is required.")
    rest = "&".join(field for field in fields if not field.startswith(_FIELD))
    for key in keys:
        if _is_token([key], unquote(in_query[0], "latin-1")) or _is_signed([key], "link", in_query[0], now):
            return SentOn(rest, _signature(key, "cookie", int(now) + COOKIE_SECONDS))
    return SentOn(rest, None) if has_cookie else AccessRefused("This link has expired, or it belongs to another home.")


def _is_token(keys: Collection[bytes], given: str) -> bool:
    digest = hashlib.sha256(given.encode("latin-1")).digest()
    return any(hmac.compare_digest(digest, key) for key in keys)


def _signature(key: bytes, purpose: str, expires: int) -> str:
    return f"{expires}.{_base64(hmac.digest(key, f'{purpose} {expires}'.encode(), 'sha256'))}"


def _is_signed(keys: Collection[bytes], purpose: str, given: str, now: float) -> bool:
    text = given.partition(".")[0]
    if not (text.isascii() and text.isdigit() and len(text) < 13 and int(text) > now):
        return False
    return any(hmac.compare_digest(given.encode("latin-1"), _signature(key, purpose, int(text)).encode()) for key in keys)


def _base64(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
