"""Judgements on a received request: does it carry the secret of its subscription? Pure; the secret itself is derived in bearer.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import orjson

from userhooks.bearer import authorization_matches, subscription_secret

Secret = Literal["ok", "wrong", "missing", "not applicable"]


class Verdict(NamedTuple):
    """What is to be said about the secret of one request, and why."""

    secret: Secret
    reason: str


def judge_secret(home_key: bytes, headers: Iterable[tuple[str, str]], body: bytes, urls: Sequence[str]) -> Verdict:
    """Judge the Authorization header of one request.

    `urls` are the spellings of the request's URL that the subscription may have been made with; the secret of any of them is right.
    """
    users = _annotated_users(body)
    if users is None:
        return Verdict("not applicable", "The body is no Sequin message, so no subscription can be told from it.")
    if not users:
        return Verdict("not applicable", "The message has no metadata.consumer.annotations.user_id: its sink was not made by subscribing.")
    if len(users) > 1:
        listed = " and ".join(str(user) for user in sorted(users))
        return Verdict("wrong", f"One request holds messages for the users {listed}; no secret fits them all.")
    (user,) = users
    given = [value for name, value in headers if name == "authorization"]
    if not given:
        return Verdict(
            "missing", f"User {user}'s subscriptions send Authorization: Bearer <secret>; this request has no Authorization header."
        )
    if len(given) > 1:
        return Verdict("wrong", f"The request has {len(given)} Authorization headers; a subscription sends one.")
    if any(authorization_matches(given[0], subscription_secret(home_key, user, url)) for url in urls):
        return Verdict("ok", f"It is the secret of user {user}'s subscription to this URL.")
    if not given[0].startswith("Bearer "):
        return Verdict("wrong", "The Authorization header does not begin with 'Bearer '.")
    return Verdict("wrong", f"It is not the secret of user {user}'s subscription to this URL: another user's, another URL's, or made up.")


def urls_as_requested(headers: Iterable[tuple[str, str]], path: str, query: str, inbox_path: str, own_bases: Iterable[str]) -> list[str]:
    """The URLs that a sender may have been given to make this request, likeliest first.

    That is the URL as requested (scheme, `Host`, path, query), then the same below each of `own_bases`, then the inbox's own URL,
    for a sink that adds a path to the URL of its endpoint.
    """
    bases = [f"http://{value}" for name, value in headers if name == "host"]
    bases += [base for base in own_bases if base not in bases]
    target = f"{path}?{query}" if query else path
    targets = [target] if target == inbox_path else [target, inbox_path]
    return [base + target for target in targets for base in bases]


def _annotated_users(body: bytes) -> set[int] | None:
    """The user ids in the consumer annotations of a body's messages; None when the body holds no messages at all."""
    try:
        parsed = orjson.loads(body)
    except ValueError:
        return None
    batch = parsed.get("data") if isinstance(parsed, dict) else None
    messages = batch if isinstance(batch, list) else [parsed]
    users: set[int] = set()
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("metadata"), dict):
            return None
        user = _user_id(message["metadata"])
        if user is not None:
            users.add(user)
    return users if messages else None


def _user_id(metadata: dict[str, Any]) -> int | None:
    consumer = metadata.get("consumer")
    annotations = consumer.get("annotations") if isinstance(consumer, dict) else None
    value = annotations.get("user_id") if isinstance(annotations, dict) else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
