"""The status of a stack as a value: what runs where, and how programs reach it. `supervisor.py` and `stack.py` create it.

`userhooks status --json` prints it as JSON. The supervisor's replies and `stack.json` contain the same JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from userhooks.errors import ConfigurationError

PartName = Literal["postgres", "sequin", "server", "inspector"]
PartState = Literal["running", "down", "external"]
"""State of a part. An `external` part belongs to the user, so this stack neither starts nor stops it."""

PARTS: tuple[PartName, ...] = ("postgres", "sequin", "server", "inspector")


@dataclass(frozen=True)
class PostgresStatus:
    """The app's database.

    `url` includes the password. It is None until the first `userhooks up` has created the home. `data_dir` is None if the database is the
    user's own.
    """

    url: str | None = field(repr=False)
    embedded: bool
    pid: int | None
    data_dir: Path | None


@dataclass(frozen=True)
class SlotStatus:
    """The replication slot of a separate Sequin server; `behind` is its unconfirmed WAL in bytes, or None if the slot is missing."""

    name: str
    behind: int | None


@dataclass(frozen=True)
class SequinStatus:
    """Sequin: the local engine if `embedded`, otherwise a separate server.

    `api_token` is None until the first `userhooks up` has created the home. `database` is the database's name in Sequin.

    The last three fields are set only by `full_status`, and the last two only for a separate server. `filter_function` is `different` if
    somebody changed the filter function. `sinks` counts the sinks of userhooks by status; those with an error count as `failing`.
    """

    url: str
    api_token: str | None = field(repr=False)
    metrics_url: str | None = field(repr=False)
    database: str
    embedded: bool
    pid: int | None
    version: str | None
    filter_function: Literal["different"] | None = None
    sinks: Mapping[str, int] | None = None
    slot: SlotStatus | None = None


@dataclass(frozen=True)
class ServerStatus:
    """The server that accepts subscriptions."""

    url: str
    pid: int | None


@dataclass(frozen=True)
class InspectorStatus:
    """The inspector; `token` is None until the first `userhooks up` has created the home."""

    url: str
    token: str | None = field(repr=False)
    pid: int | None


@dataclass(frozen=True)
class StackStatus:
    """What runs where. `ready` means that every part of this stack is running; `mode` is `sequin` if a separate Sequin server is used.

    Passwords and tokens are in the fields but not in the repr.

        status = stack.status()
        status.ready
        status.sequin.pid
        status.state("postgres")
    """

    home: Path
    mode: Literal["embedded", "sequin"]
    ready: bool
    private_addresses: Literal["allow", "forbid"]
    postgres: PostgresStatus
    sequin: SequinStatus
    server: ServerStatus
    inspector: InspectorStatus

    def part(self, name: PartName) -> PostgresStatus | SequinStatus | ServerStatus | InspectorStatus:
        """Return the status of one part, for loops over `PARTS`."""
        match name:
            case "postgres":
                return self.postgres
            case "sequin":
                return self.sequin
            case "server":
                return self.server
            case "inspector":
                return self.inspector

    def state(self, name: PartName) -> PartState:
        """Return whether a part is running, down, or external."""
        part = self.part(name)
        if isinstance(part, PostgresStatus | SequinStatus) and not part.embedded:
            return "external"
        return "down" if part.pid is None else "running"

    def as_json(self) -> dict[str, Any]:
        """Return the status as a JSON object. The fields that only `full_status` sets are left out if they are None."""
        written = asdict(self)
        written["home"] = str(self.home)
        written["postgres"]["data_dir"] = None if self.postgres.data_dir is None else str(self.postgres.data_dir)
        for name in ("filter_function", "sinks", "slot"):
            if written["sequin"][name] is None:
                del written["sequin"][name]
        return written

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> StackStatus:
        """Return the status that was written by `as_json`. Raises ConfigurationError if another version of userhooks wrote it."""
        try:
            return cls._from_json(fields)
        except (KeyError, TypeError) as exc:
            raise ConfigurationError(
                "The running stack was started by another version of userhooks.", "Run userhooks down, then userhooks up."
            ) from exc

    @classmethod
    def _from_json(cls, fields: Mapping[str, Any]) -> StackStatus:
        postgres, sequin = fields["postgres"], fields["sequin"]
        data_dir = None if postgres["data_dir"] is None else Path(postgres["data_dir"])
        slot = SlotStatus(**sequin["slot"]) if "slot" in sequin else None
        return cls(
            home=Path(fields["home"]),
            mode=fields["mode"],
            ready=fields["ready"],
            private_addresses=fields["private_addresses"],
            postgres=PostgresStatus(**{**postgres, "data_dir": data_dir}),
            sequin=SequinStatus(**{**sequin, "slot": slot}),
            server=ServerStatus(**fields["server"]),
            inspector=InspectorStatus(**fields["inspector"]),
        )
