"""The supervisor: one process per home, and the parent of every program of the stack.

It keeps the home locked, and has a pipe to the stdin of each program, which exits when its pipe closes. It starts and stops the programs,
and answers requests on a loopback port from clients that know the token in `stack.json`. It never restarts a program on its own: a part
that dies stays down until `up` or `restart`. The public interface is in `stack.py`, and `control.py` reaches or spawns the supervisor.

This module is long because starting, watching, and stopping the parts all use the same state.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hmac
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from userhooks.errors import ConfigurationError, InvalidInput, NotRunning, SequinNotFound, SequinUnreachable, UserhooksError
from userhooks.settings import PORT_VARIABLES, Settings
from userhooks.shared import python_command
from userhooks.shared.child_process import own_address, own_url, read_config
from userhooks.stack.control import LOCKED, START_SECONDS, STOP_SECONDS, as_json, as_reply, end_programs_of, started_at
from userhooks.stack.embedded_postgres import PostgresServer, cluster_folder, server_url
from userhooks.stack.home import Home, require_free, write_json
from userhooks.stack.status import PARTS, InspectorStatus, PostgresStatus, SequinStatus, ServerStatus, StackStatus

log = logging.getLogger("supervisor")

_MODULES = {"server": "userhooks.webhooks.server", "inspector": "userhooks.inspector"}


class ManagedProgram:
    """A program of the stack as a child process.

    It runs `python -m userhooks.<module>`, reads its configuration from stdin, and writes its output to a log.
    """

    def __init__(self, name: str, module: str, host: str, ports: Mapping[str, int], log_file: Path) -> None:
        self.name = name
        self.ports = ports
        """Ports by the name in PORT_VARIABLES. `/health` is served on the first one."""
        self.log_file = log_file
        self.host = host
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def require_free_ports(self) -> None:
        for part, port in self.ports.items():
            require_free(part, self.host, port)

    def spawn(self) -> None:
        """Start the process. It loads its code while its dependencies start, and then waits for `configure`."""
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                python_command.command(self._module),
                env=python_command.environment(),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.log_file.parent,
                start_new_session=True,
            )

    def configure(self, config: Mapping[str, Any]) -> None:
        """Send the configuration as one line. If the program is already dead, `until_ready` reports why."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(config).encode() + b"\n")
                self._process.stdin.flush()

    async def until_ready(self) -> None:
        """Wait until `/health` answers 200. Raises ConfigurationError if the program exits or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        port = next(iter(self.ports.values()))
        while await http_get(own_address(self.host), port, "/health") is None:
            if self.pid is None:
                raise ConfigurationError(f"The {self.name} process did not start: {self._last_log_line()}", f"See the log: {self.log_file}")
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"The {self.name} process did not answer within {START_SECONDS:.0f} s.", f"See the log: {self.log_file}"
                )
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Stop the process, and kill it if it does not exit in time."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, STOP_SECONDS)
            await self.kill()

    async def kill(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.communicate)

    def _last_log_line(self) -> str:
        lines = self.log_file.read_bytes()[self._log_start :].decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it logged nothing"


class Supervisor:
    """The programs of one home. A lock serializes all changes, so that two commands never start the same part twice.

    It is long because starting, watching, and stopping share the state of each program.
    """

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home = home
        self.settings = settings
        self.ports = home.ports(settings)
        self.database_url = database_url(settings, home, self.ports)
        self.sequin_url = sequin_url(settings, self.ports)
        self.sequin_api_token = settings.sequin_api_token or home.secrets.api_token
        self.token = secrets.token_urlsafe(24)
        self.control_port = 0
        self.stopped = asyncio.Event()
        self.version: str | None = None
        self._lock = asyncio.Lock()
        self._ready = False
        self.postgres = (
            PostgresServer(home.path, port=self.ports["postgres"], password=home.secrets.postgres_password, log=home.log("postgres"))
            if settings.database_url is None
            else None
        )
        self.programs: dict[str, ManagedProgram] = {}
        if settings.sequin_url is None:
            engine_ports = {"sequin": self.ports["sequin"], "metrics": self.ports["metrics"]}
            self.programs["sequin"] = ManagedProgram("sequin", "userhooks.engine", "127.0.0.1", engine_ports, home.log("sequin"))
        for part, host in (("server", "127.0.0.1"), ("inspector", settings.inspector_bind)):
            self.programs[part] = ManagedProgram(part, _MODULES[part], host, {part: self.ports[part]}, home.log(part))

    # --- requests ------------------------------------------------------------------------------------------------------

    async def up(self) -> None:
        """Start every part that is not running. Raises an error if a part cannot start, and leaves running parts alone.

        A separate Sequin server is checked first, every time. If it cannot be used, nothing is started and no table is created.
        """
        async with self._lock:
            if self.settings.sequin_url is not None:
                self.version = await asyncio.to_thread(check_sequin, self.settings)
            await self._start([part for part in self.parts if self._pid(part) is None])

    async def restart(self, part: str) -> None:
        """Stop a part if it is running, and start it."""
        async with self._lock:
            await self._stop(self._known(part))
            await self._start([part])

    async def kill(self, part: str) -> None:
        """Kill a part, which stays down."""
        async with self._lock:
            if self._known(part) == "postgres" and self.postgres is not None:
                await asyncio.to_thread(self.postgres.kill)
            else:
                await self.programs[part].kill()
            self.write_state()

    async def down(self) -> None:
        """Stop every part, the database last, and then the supervisor itself."""
        async with self._lock:
            await asyncio.gather(*(program.stop() for program in self.programs.values()))
            if self.postgres is not None:
                await asyncio.to_thread(self.postgres.stop)
            self.home.stack_file.unlink(missing_ok=True)
            self.stopped.set()

    def status(self) -> StackStatus:
        """Return the status, as `Stack.status` does."""
        pids = {part: self._pid(part) for part in self.parts}
        ready = self._ready and all(pid is not None for pid in pids.values())
        return describe(self.settings, self.home, self.ports, pids=pids, ready=ready, version=self.version)

    # --- starting and stopping parts -----------------------------------------------------------------------------------

    @property
    def parts(self) -> list[str]:
        """The parts that this supervisor runs, in the order of `PARTS`."""
        return [part for part in PARTS if part in self.programs or (part == "postgres" and self.postgres is not None)]

    def _known(self, part: str) -> str:
        if part in PARTS and part not in self.parts:
            what = f"{part} is your own server, which userhooks does not start or stop."
            raise InvalidInput("part", what, f"Start or stop it yourself. The parts that userhooks runs are {', '.join(self.parts)}.")
        if part not in self.parts:
            raise InvalidInput("part", f"The stack has no part {part!r}.", f"Its parts are {', '.join(self.parts)}.")
        return part

    def _pid(self, part: str) -> int | None:
        if part == "postgres":
            return self.postgres.pid if self.postgres is not None else None
        return self.programs[part].pid

    async def _stop(self, part: str) -> None:
        if part == "postgres" and self.postgres is not None:
            await asyncio.to_thread(self.postgres.stop)
        else:
            await self.programs[part].stop()

    async def _start(self, missing: list[str]) -> None:
        """Start these parts concurrently. Programs load their code while Postgres starts, and are configured when it is ready."""
        programs = [self.programs[part] for part in missing if part in self.programs]
        if "postgres" in missing:
            require_free("postgres", "127.0.0.1", self.ports["postgres"])
        for program in programs:
            program.require_free_ports()
        for part in missing:
            self.home.start_log(part)
        for program in programs:
            program.spawn()
        try:
            await asyncio.to_thread(self._prepare_database)
            for program in programs:
                program.configure(self._config(program.name))
            await asyncio.gather(*(program.until_ready() for program in programs))
            if self.version is None:
                self.version = await self._engine_version()
        except BaseException:
            await asyncio.gather(*(program.kill() for program in programs))
            raise
        finally:
            self._ready = True
            self.write_state()

    def _prepare_database(self) -> None:
        if self.postgres is not None:
            self.postgres.start()
        from userhooks.webhooks.database import Database

        embedded = self.settings.sequin_url is None  # a separate Sequin server has its own slot and publication
        database = Database(self.database_url)
        database.check(self.home.slot if embedded else None)
        database.set_up(self.home.publication if embedded else None)

    async def _engine_version(self) -> str | None:
        answer = await http_get("127.0.0.1", self.ports["sequin"], "/info/version")
        return str(json.loads(answer)["version"]) if answer else None

    def _config(self, part: str) -> dict[str, Any]:
        """Return the configuration that a program reads from its stdin."""
        home, ports = self.home, self.ports
        if part == "sequin":
            return {
                "port": ports["sequin"],
                "metrics_port": ports["metrics"],
                "api_token": self.sequin_api_token,
                "database_url": self.database_url,
                "database_name": self.settings.sequin_database,
                "slot": home.slot,
                "publication": home.publication,
                "store": str(home.engine_store),
                "allow_private": self.settings.allow_private,
                "parts": {**self._part_urls(), "inspector": self.inspector_url},
                "inspector": {"url": f"{self.inspector_url}/", "token": home.secrets.inspector_token},
            }
        if part == "server":
            return {
                "port": ports["server"],
                "database_url": self.database_url,
                "sequin_url": self.sequin_url,
                "sequin_api_token": self.sequin_api_token,
                "sequin_database": self.settings.sequin_database,
                "home_key": home.secrets.home_key.hex(),
                "allow_private": self.settings.allow_private,
            }
        return {
            "bind": self.settings.inspector_bind,
            "port": ports["inspector"],
            "public_url": self.settings.inspector_public_url,
            "store": str(home.inspector_store),
            "home_key": home.secrets.home_key.hex(),
            "token": home.secrets.inspector_token,
            "parts": self._part_urls(),
            "console": {"url": f"{self.sequin_url}/", "token": self.sequin_api_token if self.settings.sequin_url is None else None},
        }

    @property
    def inspector_url(self) -> str:
        """The inspector's URL on this machine."""
        return own_url(self.settings.inspector_bind, self.ports["inspector"])

    def _part_urls(self) -> dict[str, str]:
        """Return the URLs at which pages ask whether the other parts answer. A database without a TCP address is left out."""
        database = database_address(self.database_url)
        server = own_url("127.0.0.1", self.ports["server"])
        return {**({"postgres": database} if database else {}), "sequin": self.sequin_url, "server": server}

    # --- the state file, and children that exit ------------------------------------------------------------------------

    def write_state(self) -> None:
        """Write `stack.json`: the status, how to reach the supervisor, and the start time of every process."""
        if self.stopped.is_set():
            return
        processes = {"supervisor": os.getpid(), **{part: pid for part in self.parts if (pid := self._pid(part)) is not None}}
        started = {name: start for name, pid in processes.items() if (start := started_at(pid)) is not None}
        control = {"pid": os.getpid(), "started": started["supervisor"], "port": self.control_port, "token": self.token}
        write_json(self.home.stack_file, {**self.status().as_json(), "supervisor": control, "started": started})

    def child_ended(self) -> None:
        """Update the state file after a child has exited. If the child was Postgres' watchdog, start another."""
        if self._lock.locked() or self.stopped.is_set():
            return  # whoever has the lock writes the state when done, and `down` removes the file
        for part in self.parts:
            if self._pid(part) is None:
                log.info("%s is down; `userhooks up` starts it", part)
        if self.postgres is not None:
            self.postgres.watch()
        self.write_state()

    # --- the control channel -------------------------------------------------------------------------------------------

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request: a line of JSON with `token`, `do`, and `part` or `settings`.

        The reply contains a `status` or an `error`.
        """
        with contextlib.suppress(ConnectionError, ValueError):
            request = json.loads(await reader.readline())
            if not hmac.compare_digest(str(request.get("token")).encode(), self.token.encode()):
                reply: dict[str, Any] = as_reply(NotRunning("The supervisor's port belongs to another stack now.", "Run userhooks up."))
            else:
                reply = await self.reply(request)
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def reply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a request. Every failure becomes an error reply, which the client raises again."""
        try:
            match request["do"]:
                case "up":
                    self._require_same(request["settings"])
                    await self.up()
                case "kill":
                    await self.kill(request["part"])
                case "restart":
                    await self.restart(request["part"])
                case "down":
                    await self.down()
                case "status":
                    pass
                case unknown:
                    raise InvalidInput("do", f"The supervisor does not know the request {unknown!r}.")
            return {"status": self.status().as_json()}
        except UserhooksError as error:
            return as_reply(error)
        except Exception as error:
            log.exception("a request failed")
            return as_reply(UserhooksError(f"The supervisor failed: {error!r}", f"See the log: {self.home.log('supervisor')}"))

    def _require_same(self, wanted: Mapping[str, Any]) -> None:
        """Raise ConfigurationError if the settings of the running stack differ from those that the caller wants."""
        own = as_json(self.settings)
        variables = {
            "database_url": "DATABASE_URL",
            "sequin_url": "SEQUIN_URL",
            "sequin_api_token": "SEQUIN_API_TOKEN",
            "sequin_database": "SEQUIN_DATABASE",
            "sequin_metrics_url": "SEQUIN_METRICS_URL",
            "inspector_bind": "USERHOOKS_INSPECTOR_BIND",
            "inspector_public_url": "USERHOOKS_INSPECTOR_PUBLIC_URL",
            "private_addresses": "USERHOOKS_PRIVATE_ADDRESSES",
        }
        different = [variable for key, variable in variables.items() if wanted[key] != own[key]]
        default = Settings(self.home.path).ports
        for part, port in wanted["ports"].items():
            if port not in (0, default[part], self.ports[part]):
                different.append(PORT_VARIABLES[part])
        if different:
            raise ConfigurationError(
                f"The stack in {self.home.path} is running with a different {', '.join(different)}.",
                "Run userhooks down first, or set USERHOOKS_HOME to another folder for a second stack.",
            )


def check_sequin(settings: Settings) -> str:
    """Check that the configured Sequin server can be used, and return its version.

    Raises SequinError if it does not answer, is not Sequin, refuses the token, does not know the database, or cannot read its slot. Raises
    ConfigurationError if it reads a database other than DATABASE_URL, and whatever `Database.check` raises.
    """
    from userhooks.webhooks.database import Database
    from userhooks.webhooks.sequin_client import SequinClient

    token, name = settings.sequin_api_token or "", settings.sequin_database
    with SequinClient(settings.sequin_url or "", token, name) as sequin:
        try:
            version, slot = sequin.version(), sequin.slot()
            sequin.test_connection()
        except SequinUnreachable as error:
            raise SequinUnreachable(error.what, "Start the Sequin server, or correct SEQUIN_URL.") from None
        except SequinNotFound as error:
            what = f"Sequin at {settings.sequin_url} has no database named {name} in this API token's account."
            remedy = "Set SEQUIN_DATABASE to a database listed in Sequin's console, or SEQUIN_API_TOKEN to a token of its account."
            raise SequinNotFound(what, remedy, status=error.status) from None
    database = Database(settings.database_url or "")
    database.check()
    if not database.has_slot(slot):
        what = f"DATABASE_URL is not the database that Sequin reads as {name}, because it has no replication slot {slot}."
        raise ConfigurationError(
            what, "Correct DATABASE_URL or SEQUIN_DATABASE, or check in Sequin's console whether the slot was dropped."
        )
    return version


def database_url(settings: Settings, home: Home, ports: Mapping[str, int]) -> str:
    """Return the URL of the app's database: the user's own, or the embedded one."""
    return settings.database_url or server_url(ports["postgres"], home.secrets.postgres_password)


def database_address(url: str) -> str | None:
    """Return a database's address like `postgres://127.0.0.1:5433`, without user and password, or None if it has no single TCP address."""
    from psycopg.conninfo import conninfo_to_dict

    fields = conninfo_to_dict(url)
    host, port = str(fields.get("hostaddr") or fields.get("host") or ""), str(fields.get("port") or 5432)
    if not host or not port.isdigit() or any(mark in host for mark in "/,"):
        return None
    return f"postgres://[{host}]:{port}" if ":" in host else f"postgres://{host}:{port}"


def sequin_url(settings: Settings, ports: Mapping[str, int]) -> str:
    """Return the URL of the Management API: a separate server's, or the local engine's."""
    return settings.sequin_url or f"http://127.0.0.1:{ports['sequin']}"


def describe(
    settings: Settings, home: Home, ports: Mapping[str, int], *, pids: Mapping[str, int | None], ready: bool, version: str | None
) -> StackStatus:
    """Return the status. Until the home has secrets, the embedded database's URL and the tokens are None."""
    own_database, own_sequin = settings.database_url is not None, settings.sequin_url is not None
    has_secrets = home.secrets_file.exists()
    return StackStatus(
        home=home.path,
        mode="sequin" if own_sequin else "embedded",
        ready=ready,
        private_addresses="allow" if settings.allow_private else "forbid",
        postgres=PostgresStatus(
            url=database_url(settings, home, ports) if own_database or has_secrets else None,
            embedded=not own_database,
            pid=pids.get("postgres"),
            data_dir=None if own_database else cluster_folder(home.path) / "data",
        ),
        sequin=SequinStatus(
            url=sequin_url(settings, ports),
            api_token=settings.sequin_api_token or (home.secrets.api_token if has_secrets else None),
            metrics_url=settings.sequin_metrics_url if own_sequin else f"http://127.0.0.1:{ports['metrics']}/metrics",
            database=settings.sequin_database,
            embedded=not own_sequin,
            pid=pids.get("sequin"),
            version=version,
        ),
        server=ServerStatus(url=f"http://127.0.0.1:{ports['server']}", pid=pids.get("server")),
        inspector=InspectorStatus(
            url=own_url(settings.inspector_bind, ports["inspector"]),
            token=home.secrets.inspector_token if has_secrets else None,
            pid=pids.get("inspector"),
        ),
    )


async def http_get(host: str, port: int, path: str) -> bytes | None:
    """Return the body of a 200 response, or None.

    No client library is used, because loading one would take longer than starting the whole stack.
    """
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 1)
    except (OSError, TimeoutError):
        return None
    try:
        host_header = own_url(host, port).removeprefix("http://")
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host_header}\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
        return body if head.split(b" ", 2)[1:2] == [b"200"] else None
    except (OSError, TimeoutError):
        return None
    finally:
        writer.close()


async def _run(home: Home, settings: Settings) -> None:
    supervisor = Supervisor(home, settings)
    loop = asyncio.get_running_loop()
    control = await asyncio.start_server(supervisor.answer, "127.0.0.1", 0)
    supervisor.control_port = control.sockets[0].getsockname()[1]
    stops: set[asyncio.Task[None]] = set()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: stops.add(asyncio.create_task(supervisor.down())))
    if (previous := home.running()) is not None:
        await asyncio.to_thread(end_programs_of, previous)
    supervisor.write_state()
    loop.add_signal_handler(signal.SIGCHLD, supervisor.child_ended)
    reply = await supervisor.reply({"do": "up", "settings": as_json(settings)})
    if "error" in reply and not any(program.pid for program in supervisor.programs.values()):
        await supervisor.down()  # the first start failed, so leave nothing behind
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
    os.dup2(2, 1)  # the spawning process waits until stdout is closed, not until we exit
    await supervisor.stopped.wait()
    await asyncio.sleep(0.05)  # let the reply to `down` be sent
    control.close()


def main() -> None:
    """Read the settings from stdin, take the home's lock, start everything, and run until `down`."""
    config = read_config()
    settings = Settings(**{**config, "home": Path(config["home"])})
    home = Home(settings.home)
    if os.fork():
        os._exit(0)  # a supervisor whose parent is the spawning process, which may be a kernel, would become a zombie when it exits
    lock = os.open(home.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(1, LOCKED)
        return
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(_run(home, settings))


if __name__ == "__main__":
    main()
