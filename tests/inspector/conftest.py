"""Fixtures for the inspector's tests: a running inspector for each module, and a new inbox for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import httpx
import pytest

from tests.inspector.program import TOKEN, Program, running, with_token
from userhooks.inspector.client import Inbox, InspectorClient

_names = itertools.count(1)


@pytest.fixture(scope="module")
def inspector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with running(tmp_path_factory.mktemp("inspector")) as program:
        yield program


@pytest.fixture
def http(inspector: Program) -> Iterator[httpx.Client]:
    """A client that sends webhooks and calls the API."""
    with httpx.Client(base_url=inspector.url, auth=with_token, trust_env=False) as client:
        yield client


@pytest.fixture
def inbox(inspector: Program) -> Iterator[Inbox]:
    with InspectorClient(inspector.url, TOKEN) as client:
        yield client.inbox(f"test-{next(_names)}")
