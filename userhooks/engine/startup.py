"""What the engine is started with; the supervisor writes it as one line of JSON to the program's stdin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

APPLICATION = "userhooks-engine"
"""The name that the engine's sessions have in pg_stat_activity"""


@dataclass(frozen=True)
class Config:
    """What the program is started with; keys of its configuration line."""

    port: int
    metrics_port: int
    api_token: str = field(repr=False)
    database_url: str = field(repr=False)
    store: Path = field(default_factory=Path)
    database_name: str = "postgres"
    slot: str = "userhooks"
    publication: str = "userhooks_pub"
    allow_private: bool = False
    retry_base: float = 1.0
    """seconds before the first retry; tests shorten it"""
    silence: float = 60.0
    """seconds without a word from Postgres after which the connection is given up; tests shorten it"""
    store_max_pages: int | None = None
    """bound of the store in pages of 4 kB; tests play a full disk with it"""
