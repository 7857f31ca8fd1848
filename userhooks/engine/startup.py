"""The engine's configuration, which the supervisor writes to the program's stdin as one line of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

APPLICATION = "userhooks-engine"
"""The application_name of the engine's sessions in pg_stat_activity."""


@dataclass(frozen=True)
class Config:
    """The engine's configuration; fields are the keys of the JSON line."""

    port: int
    metrics_port: int
    api_token: str = field(repr=False)
    database_url: str = field(repr=False)
    store: Path = field(default_factory=Path)
    database_name: str = "postgres"
    slot: str = "userhooks"
    publication: str = "userhooks_pub"
    allow_private: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)
    """name -> URL of the parts of the stack, for the console (`web/stack_parts.py`)"""
    inspector: Mapping[str, str] = field(default_factory=dict, repr=False)
    """the inspector's `url` and `token`, for the console's link to it"""
    retry_base: float = 1.0
    """seconds to wait before the first retry; tests shorten it"""
    silence: float = 60.0
    """seconds of silence from Postgres after which the connection is closed; tests shorten it"""
    store_max_pages: int | None = None
    """maximum size of the store in pages of 4 kB; tests use it to simulate a full disk"""
