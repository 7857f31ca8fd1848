"""Tokens, links, and cookies: which grant access, how long they are valid, and where a link redirects to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userhooks.web.access_tokens import (
    COOKIE_SECONDS,
    LINK_SECONDS,
    AccessRefused,
    Admitted,
    SentOn,
    decide,
    inspector_token,
    key_of,
    page_link,
)

TOKEN = "right"
NOW = 1_000_000_000.0
KEYS = [key_of("another"), key_of(TOKEN)]


def asked(query: str = "", *, cookies: tuple[str, ...] = (), now: float = NOW, reads: bool = True, keys: list[bytes] = KEYS) -> object:
    return decide(keys, query=query, authorizations=[], cookies=cookies, reads=reads, now=now)


def query_of_a_link(now: float = NOW) -> str:
    return page_link("http://127.0.0.1:3334/", TOKEN, now).partition("?")[2]


def cookie() -> str:
    decision = asked(query_of_a_link())
    assert isinstance(decision, SentOn)
    assert decision.cookie is not None
    return decision.cookie


def test_a_link_works_for_an_hour() -> None:
    assert isinstance(asked(query_of_a_link(), now=NOW + LINK_SECONDS - 1), SentOn)
    assert isinstance(asked(query_of_a_link(), now=NOW + LINK_SECONDS), AccessRefused)


def test_a_cookie_works_for_thirty_days() -> None:
    assert asked(cookies=(cookie(),), now=NOW + COOKIE_SECONDS - 1) == Admitted()
    assert isinstance(asked(cookies=(cookie(),), now=NOW + COOKIE_SECONDS), AccessRefused)


def test_links_and_cookies_end_with_their_token() -> None:
    others = [key_of("another")]
    assert isinstance(asked(query_of_a_link(), keys=others), AccessRefused)
    assert isinstance(asked(cookies=(cookie(),), keys=others), AccessRefused)
    assert isinstance(asked(cookies=(cookie(),), keys=[]), AccessRefused)


def test_a_cookie_among_others_of_its_name_counts() -> None:
    assert asked(cookies=("stale", cookie())) == Admitted()


def test_a_link_is_for_reading_only() -> None:
    assert isinstance(asked(query_of_a_link(), reads=False), AccessRefused)


@given(st.lists(st.text("abz=%+./", min_size=1, max_size=8).filter(lambda field: not field.startswith("token=")), max_size=4))
def test_the_rest_of_the_query_stays_as_it_was(fields: list[str]) -> None:
    decision = asked("&".join([*fields, query_of_a_link(), "token=second"]))
    assert isinstance(decision, SentOn)
    assert decision.query == "&".join(fields)


@given(st.text(st.characters(max_codepoint=255), max_size=80), st.integers(0, 2))
def test_nothing_else_lets_in(text: str, place: int) -> None:
    """The guesses include links, cookies, and tokens used in place of one another."""
    for guess in (text, cookie(), query_of_a_link().removeprefix("token="), KEYS[1].hex()):
        authorizations = [f"Bearer {guess}"] if place == 0 else []
        query = f"token={guess}" if place == 1 and guess != query_of_a_link().removeprefix("token=") and "&" not in guess else ""
        cookies = [guess] if place == 2 and guess != cookie() else []
        if TOKEN not in guess:
            decision = decide(KEYS, query=query, authorizations=authorizations, cookies=cookies, reads=True, now=NOW)
            assert isinstance(decision, AccessRefused)


@pytest.mark.parametrize("scheme", ["Basic", "", "Bearer Bearer"])
def test_only_bearer_and_token_are_schemes(scheme: str) -> None:
    assert isinstance(decide(KEYS, query="", authorizations=[f"{scheme} {TOKEN}"], cookies=[], reads=True, now=NOW), AccessRefused)


def test_the_inspectors_token_is_derived_from_the_homes_key_and_does_not_show_it() -> None:
    keys = [bytes([n]) * 32 for n in range(2)]
    tokens = [inspector_token(key) for key in keys]
    assert tokens[0] != tokens[1]
    assert tokens[0] == inspector_token(keys[0])
    assert keys[1].hex() not in tokens[1]
