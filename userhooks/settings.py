"""The settings that environment variables control, read once into a frozen object. Other modules decide how to use them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from userhooks.errors import ConfigurationError

_PORTS = {
    "server": ("USERHOOKS_SERVER_PORT", 3333),
    "sequin": ("USERHOOKS_SEQUIN_PORT", 7376),
    "metrics": ("USERHOOKS_METRICS_PORT", 8376),
    "inspector": ("USERHOOKS_INSPECTOR_PORT", 3334),
    "postgres": ("USERHOOKS_POSTGRES_PORT", 5433),
}

PORT_VARIABLES: Mapping[str, str] = {part: variable for part, (variable, _) in _PORTS.items()}
"""Environment variable that sets each part's port; error messages name it."""


@dataclass(frozen=True)
class Settings:
    """Settings read from environment variables, with defaults for those that are not set.

    `ports` maps `server`, `sequin`, `metrics`, `inspector` and `postgres` to a port. 0 means any free port, chosen once and
    stored in the home folder. Tokens, and URLs that may contain a password, are left out of the repr.
    """

    home: Path
    database_url: str | None = field(default=None, repr=False)
    sequin_url: str | None = None
    sequin_api_token: str | None = field(default=None, repr=False)
    sequin_database: str = "postgres"
    sequin_metrics_url: str | None = field(default=None, repr=False)
    ports: Mapping[str, int] = field(default_factory=lambda: {part: port for part, (_, port) in _PORTS.items()})
    inspector_bind: str = "127.0.0.1"
    inspector_public_url: str | None = None
    private_addresses: str = "allow"
    """Either `allow` or `forbid`: whether webhooks may be sent to loopback and private networks."""

    @property
    def allow_private(self) -> bool:
        """Whether webhooks may be sent to loopback and private networks."""
        return self.private_addresses == "allow"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
        """Read the settings from environment variables; raises ConfigurationError, which names the invalid variable."""
        env = os.environ if environ is None else environ
        sequin_url = env.get("SEQUIN_URL") or None
        database_url = _database_url(env)
        token = env.get("SEQUIN_API_TOKEN") or None
        if sequin_url and not database_url:
            raise ConfigurationError(
                "SEQUIN_URL is set and DATABASE_URL is not.",
                "Set DATABASE_URL to the Postgres database that this Sequin server reads, or unset SEQUIN_URL.",
            )
        if sequin_url and not token:
            raise ConfigurationError(
                "SEQUIN_URL is set and SEQUIN_API_TOKEN is not.",
                "Set SEQUIN_API_TOKEN to a token of that server (its console lists them), or unset SEQUIN_URL.",
            )
        if sequin_url and not sequin_url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"SEQUIN_URL is {sequin_url!r}, which is not an http:// or https:// address.",
                "Set it like SEQUIN_URL=http://127.0.0.1:7376",
            )
        home = Path(env["USERHOOKS_HOME"]) if env.get("USERHOOKS_HOME") else project_folder(cwd or Path.cwd()) / ".userhooks"
        return cls(
            home=home.expanduser().resolve(),
            database_url=database_url,
            sequin_url=sequin_url.rstrip("/") if sequin_url else None,
            sequin_api_token=token,
            sequin_database=env.get("SEQUIN_DATABASE") or "postgres",
            sequin_metrics_url=env.get("SEQUIN_METRICS_URL") or None,
            ports={part: _port(env, variable, default) for part, (variable, default) in _PORTS.items()},
            inspector_bind=env.get("USERHOOKS_INSPECTOR_BIND") or "127.0.0.1",
            inspector_public_url=(env.get("USERHOOKS_INSPECTOR_PUBLIC_URL") or "").rstrip("/") or None,
            private_addresses=_private_addresses(env),
        )


def _database_url(env: Mapping[str, str]) -> str | None:
    url = env.get("DATABASE_URL", "").strip()
    if not url:
        return None
    from userhooks.shared.postgres_connections import complete

    return complete(url, env)


def _port(env: Mapping[str, str], variable: str, default: int) -> int:
    text = env.get(variable) or str(default)
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ConfigurationError(
            f"{variable} is {text!r}, which is not a valid port number.",
            f"Set it to a number from 1 to 65535, or to 0 for a free port, like {variable}=0",
        )
    return int(text)


def _private_addresses(env: Mapping[str, str]) -> str:
    text = env.get("USERHOOKS_PRIVATE_ADDRESSES") or "allow"
    if text not in ("allow", "forbid"):
        raise ConfigurationError(
            f"USERHOOKS_PRIVATE_ADDRESSES is {text!r}, not allow or forbid.",
            "Set it to forbid to refuse webhooks to loopback and private networks, or unset it to allow them.",
        )
    return text


def project_folder(directory: Path) -> Path:
    """Return the nearest folder with this project's pyproject.toml, or else `directory`.

    It contains the default home and the reader's lessons. Notebooks run in `lessons/` and commands anywhere in the checkout, and both must
    find the same folder.
    """
    for folder in (directory, *directory.parents):
        project = folder / "pyproject.toml"
        if project.is_file() and 'name = "userhooks"' in project.read_text(encoding="utf-8"):
            return folder
    return directory
