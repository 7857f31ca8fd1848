"""Saves and deletes the Management API's keys, and creates the one that the engine starts with. `api/` checks requests."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from userhooks.engine.clock import utc_now
from userhooks.engine.resources import ApiKey, Catalog
from userhooks.engine.state_store import StateStore

_DEFAULT = "Default"


class ApiKeys:
    """The Management API's keys. `write` runs a method of the store on the store's thread."""

    def __init__(self, catalog: Catalog, store: StateStore, write: Callable[..., Awaitable[Any]]) -> None:
        self._catalog = catalog
        self._store = store
        self._write = write

    async def save(self, key: ApiKey) -> None:
        """Create or replace a key."""
        await self._write(self._store.save, key)
        self._catalog.api_keys[key.id] = key

    async def delete(self, key_id: str) -> None:
        """Delete a key."""
        await self._write(self._store.delete, [key_id])
        self._catalog.api_keys.pop(key_id, None)

    async def save_default(self, token: str) -> None:
        """Set the token of the key named `Default`, creating the key if it does not exist."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        present = next((key for key in self._catalog.api_keys.values() if key.name == _DEFAULT), None)
        if present is None:
            present = ApiKey(str(uuid.uuid4()), _DEFAULT, digest, utc_now())
        await self.save(replace(present, token_sha256=digest))
