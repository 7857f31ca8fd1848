"""The home folder: its paths, its stored secrets and ports, and the check that this release may use it.

It contains a user's data and secrets, so its mode is 0700 and that of its files is 0600. `supervisor.py` runs the programs, and
`embedded_postgres.py` decides where the database cluster goes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from userhooks.errors import ConfigurationError
from userhooks.settings import PORT_VARIABLES, Settings
from userhooks.stack.embedded_postgres import cluster_folder, find_binaries, remove_cluster
from userhooks.web.access_tokens import inspector_token

FORMAT = 1
"""Format version of the files in the home; incremented when a release can no longer read an older release's files."""

LOG_BYTES = 10_000_000
"""Size of a log above which it is rotated before its part starts."""

_CHOSEN_PORTS = range(20_000, 30_000)
"""Range for free ports. It is below the range from which Linux and macOS take the local ports of outgoing connections."""


@dataclass(frozen=True)
class Secrets:
    """The secrets of a home, created once."""

    postgres_password: str = field(repr=False)
    api_token: str = field(repr=False)
    home_key: bytes = field(repr=False)

    @property
    def inspector_token(self) -> str:
        """The token for the inspector's pages and API."""
        return inspector_token(self.home_key)


class Home:
    """One home folder. `open` creates or checks it; the constructor does not access the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, settings: Settings) -> Home:
        """Create the home, or check that this release may use it. If not, raise ConfigurationError and change nothing."""
        home = cls(settings.home)
        try:
            home._open(embedded=settings.database_url is None)
        except OSError as error:
            raise ConfigurationError(
                f"The home folder {home.path} cannot be used: {error.strerror} ({error.filename}).",
                "Set USERHOOKS_HOME to a folder that you own, or remove that one as the user who created it.",
            ) from None
        return home

    def _open(self, *, embedded: bool) -> None:
        major = find_binaries().major if embedded else None
        if self.path.exists() and not self.path.is_dir():
            raise ConfigurationError(f"The home {self.path} is a file, not a folder.", "Set USERHOOKS_HOME to a folder.")
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.path):  # otherwise, two commands that first use the home at the same time would each create secrets
            recorded = self._recorded_format(major)
            self.path.chmod(0o700)
            # This file is written first, so that a partly created home is still recognized as a home.
            current = {"format": FORMAT, "postgres_major": recorded.get("postgres_major") or major}
            if recorded != current:
                write_json(self.format_file, current)
            for folder in (self.logs, self.engine_store.parent, self.inspector_store.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            if not self.secrets_file.exists():
                new_secrets = {
                    "postgres_password": secrets.token_urlsafe(24),
                    "api_token": secrets.token_urlsafe(32),
                    "home_key": secrets.token_hex(32),
                }
                write_json(self.secrets_file, new_secrets)

    def _recorded_format(self, major: int | None) -> dict[str, Any]:
        """Return the contents of `format.json`, or {} for an empty folder. Raises ConfigurationError if this release may not use it."""
        if self.format_file.exists():
            recorded: dict[str, Any] = json.loads(self.format_file.read_text(encoding="utf-8"))
            self._check_format(recorded, major)
            return recorded
        if any(not file.name.startswith(self.format_file.name) for file in self.path.iterdir()):
            raise ConfigurationError(
                f"{self.path} is not empty and was not created by userhooks.", "Set USERHOOKS_HOME to a new or empty folder."
            )
        return {}

    def _check_format(self, recorded: Mapping[str, Any], major: int | None) -> None:
        if recorded.get("format") != FORMAT:
            raise ConfigurationError(
                f"The home {self.path} has format {recorded.get('format')}; this release reads format {FORMAT}.",
                "Run the release that created it, set USERHOOKS_HOME to a new folder, or run make clean, which deletes all data.",
            )
        recorded_major = recorded.get("postgres_major")
        if recorded_major is not None and major is not None and recorded_major != major:
            raise ConfigurationError(
                f"The data in {self.path} was created by Postgres {recorded_major}, but the installed binaries are Postgres {major}.",
                "Install the release that created it, set USERHOOKS_HOME to a new folder, or run make clean, which deletes all data.",
            )

    @property
    def format_file(self) -> Path:
        return self.path / "format.json"

    @property
    def secrets_file(self) -> Path:
        return self.path / "secrets.json"

    @property
    def stack_file(self) -> Path:
        """The file that contains the status, and how to reach the supervisor. Only the supervisor writes it."""
        return self.path / "stack.json"

    @property
    def lock_file(self) -> Path:
        """The file that the supervisor keeps locked while it runs."""
        return self.path / "supervisor.lock"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log(self, part: str) -> Path:
        """Return the log file of `postgres`, `sequin`, `server`, `inspector`, or `supervisor`."""
        return self.logs / f"{part}.log"

    def start_log(self, part: str) -> None:
        """Rotate a part's log if it has grown large, before the part starts. One old log is kept."""
        file = self.log(part)
        if file.exists() and file.stat().st_size > LOG_BYTES:
            file.replace(file.with_suffix(".log.old"))

    @property
    def engine_store(self) -> Path:
        return self.path / "engine" / "engine.db"

    @property
    def inspector_store(self) -> Path:
        return self.path / "inspector" / "inspector.db"

    @property
    def secrets(self) -> Secrets:
        """The home's secrets, read from the file."""
        text = json.loads(self.secrets_file.read_text(encoding="utf-8"))
        return Secrets(text["postgres_password"], text["api_token"], bytes.fromhex(text["home_key"]))

    @property
    def slot(self) -> str:
        """The name of the replication slot. It includes a hash of the home's path, so that two homes can share a database server."""
        return f"userhooks_{self._hash}"

    @property
    def publication(self) -> str:
        """The name of the publication. It includes the same hash as the slot's name."""
        return f"userhooks_pub_{self._hash}"

    @property
    def _hash(self) -> str:
        return hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:8]

    def ports(self, settings: Settings) -> dict[str, int]:
        """Return every part's port: the configured one or, for 0, a free one that is chosen once and stored."""
        file = self.path / "ports.json"
        stored: dict[str, int] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        taken = {*stored.values(), *settings.ports.values()}
        chosen = dict(stored)
        for part, port in settings.ports.items():
            if port == 0 and part not in chosen:
                chosen[part] = _free_port(taken)
                taken.add(chosen[part])
        if chosen != stored:
            write_json(file, chosen)
        return {part: port or chosen[part] for part, port in settings.ports.items()}

    def running(self) -> dict[str, Any] | None:
        """Return the state that the supervisor last wrote, or None if there is none. The supervisor may have died since."""
        try:
            state: dict[str, Any] = json.loads(self.stack_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return state

    def remove(self) -> None:
        """Delete the home and its database cluster. The stack must be stopped."""
        cluster = cluster_folder(self.path)
        if self.path.exists():
            shutil.rmtree(self.path)
        remove_cluster(cluster)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Replace a file atomically and durably. Only its owner may read it."""
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder. The system releases it if the process dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def require_free(part: str, host: str, port: int) -> None:
    """Raise ConfigurationError, naming the port and its variable, if the port cannot be bound."""
    with contextlib.closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            variable = PORT_VARIABLES[part]
            raise ConfigurationError(
                f"Port {port} on {host} is not available for {part}: {error.strerror}.",
                f"Stop the program that uses it, or set {variable} to another port; {variable}=0 picks a free one.",
            ) from None


def _free_port(taken: set[int]) -> int:
    for _ in range(1000):
        port = secrets.choice(_CHOSEN_PORTS)
        if port in taken:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise ConfigurationError("No free port was found.", f"Choose ports and set {', '.join(PORT_VARIABLES.values())}.")
