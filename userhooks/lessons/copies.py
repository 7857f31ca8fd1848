"""The reader's folder: copies of the lessons, made once and never overwritten, and a record of what each was made from.

`reader_copy.py` decides what a copy contains. The record, a hidden file in the folder, contains the hash that each copy had when it
was made. It shows which copies the reader has changed, and which were made from an older version of a lesson.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from userhooks.errors import ConfigurationError, NotFound
from userhooks.lessons.reader_copy import content_hash, linked_files, reader_copy, source_of
from userhooks.settings import project_folder

INDEX = "index.md"
"""The start page. It is written at each start, because it contains the addresses of the running programs."""
RECORD = ".copies.json"
"""The record: file name -> hash of the copy when it was made."""
PACKAGED = Path(__file__).resolve().parents[1] / "notebooks"
"""The lessons as they are shipped, in a checkout and in a wheel."""

_ALWAYS = {".ipynb", ".md", ".yaml"}
_IF_LINKED = {".gif", ".jpg", ".png", ".svg", ".webp"}
_BY_JUPYTER = {".ipynb_checkpoints", RECORD}


@dataclass(frozen=True)
class CopyState:
    """One file of the course and the reader's copy of it."""

    name: str
    missing: bool = False
    """Whether there is no copy yet."""
    changed: bool = False
    """Whether the reader changed the copy. Running cells is not a change."""
    older: bool = False
    """Whether the copy was made from an earlier version of the file than the shipped one."""
    withdrawn: bool = False
    """Whether the file is no longer part of the course."""

    def __str__(self) -> str:
        if self.missing:
            return "not copied yet"
        words = "changed by you" if self.changed else "unchanged"
        if self.withdrawn:
            return f"{words}; no longer part of the course"
        return f"{words}; a newer version exists" if self.older else words


@dataclass(frozen=True)
class CopyReport:
    """What `Copies.copy` did: names of the files it made, replaced, and removed, and of changed copies that have a newer version."""

    made: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FreshCopy:
    """A copy made by `Copies.reset`. `kept` is the new name of the reader's changed copy, or None if there was no change to keep."""

    name: str
    kept: str | None


class Copies:
    """The copies in one folder. The constructor does not access the disk."""

    def __init__(self, folder: Path, shipped: Path = PACKAGED) -> None:
        self.folder = folder
        self._shipped = shipped

    @classmethod
    def of(cls, directory: Path) -> Copies:
        """Return the copies that a command uses in this working directory.

        If the directory or one of its parents contains copies, those are used. Otherwise, they are in the folder `lessons` of the checkout
        that contains the directory, or of the directory itself.
        """
        for folder in (directory, *directory.parents):
            if (folder / RECORD).is_file():
                return cls(folder)
        return cls(project_folder(directory) / "lessons")

    @cached_property
    def fresh(self) -> Mapping[str, bytes]:
        """Fresh copies of all files of the course, by name: first the lessons, then the files that they use."""
        files = sorted(self._shipped.iterdir(), key=lambda file: (file.suffix != ".ipynb", file.name))
        copies = {file.name: _fresh(file) for file in files if file.suffix in _ALWAYS and file.name != INDEX}
        linked = {target for name, data in copies.items() if not name.endswith(".yaml") for target in linked_files(_text(name, data))}
        return copies | {file.name: file.read_bytes() for file in files if file.suffix in _IF_LINKED and file.name in linked}

    def states(self) -> list[CopyState]:
        """Compare every file of the course, and every copy of a file that has been withdrawn, with its fresh copy."""
        record = self._record()
        withdrawn = [name for name in sorted(record) if name not in self.fresh and name != INDEX and (self.folder / name).is_file()]
        return [self._state(name, record.get(name)) for name in [*self.fresh, *withdrawn]]

    def _state(self, name: str, made_from: str | None) -> CopyState:
        current = self._current_hash(name)
        shipped = content_hash(name, self.fresh[name]) if name in self.fresh else None
        if current is None:
            return CopyState(name, missing=True)
        return CopyState(
            name,
            changed=current not in (made_from, shipped),
            older=shipped is not None and made_from not in (None, shipped) and current != shipped,
            withdrawn=shipped is None,
        )

    def copy(self) -> CopyReport:
        """Make the missing copies, and bring the unchanged ones up to date. Raises ConfigurationError if they cannot be written."""
        with self._writing():
            return self._copy()

    def _copy(self) -> CopyReport:
        report = CopyReport()
        record = self._record()
        for state in self.states():
            if state.changed:
                if state.older:
                    report.outdated.append(state.name)
                continue
            if state.withdrawn:
                (self.folder / state.name).unlink()
                del record[state.name]
                report.removed.append(state.name)
                continue
            if state.missing or state.older:
                _replace(self.folder / state.name, self.fresh[state.name])
                (report.made if state.missing else report.replaced).append(state.name)
            record[state.name] = content_hash(state.name, self.fresh[state.name])
        self._write_record(record)
        return report

    def reset(self, wanted: Sequence[str] = ()) -> list[FreshCopy]:
        """Make fresh copies of all files, or of the `wanted` ones, and keep changed copies beside them under another name.

        A lesson is given by its number or file name. Raises NotFound for any other name, and ConfigurationError if the copies cannot be
        written.
        """
        names = [self._named(word) for word in wanted] or list(self.fresh)
        with self._writing():
            return [self._reset(name) for name in dict.fromkeys(names)]

    def _reset(self, name: str) -> FreshCopy:
        record = self._record()
        kept = self._keep(name) if self._state(name, record.get(name)).changed else None
        _replace(self.folder / name, self.fresh[name])
        self._write_record(record | {name: content_hash(name, self.fresh[name])})
        return FreshCopy(name, kept)

    def _named(self, word: str) -> str:
        number = word.zfill(2) if word.isdigit() else None
        for name in self.fresh:
            if word in (name, Path(name).stem) or (number and name.startswith(f"{number}_")):
                return name
        raise NotFound(f"There is no lesson {word}.", "userhooks lessons list shows all of them.")

    def _keep(self, name: str) -> str:
        """Rename the reader's copy, and return its new name."""
        file = self.folder / name
        time = f"{datetime.now(UTC).astimezone():%Y-%m-%dT%H%M}"
        numbers = ("", *(f"-{number}" for number in range(2, 1000)))
        kept = next(one for number in numbers if not (one := file.with_name(f"{file.stem}.old-{time}{number}{file.suffix}")).exists())
        file.rename(kept)
        return kept.name

    def write_index(self, text: str) -> str | None:
        """Write the start page. Return the new name of the previous one if the reader had changed it, or else None."""
        written = content_hash(INDEX, text.encode())
        with self._writing():
            record = self._record()
            kept = self._keep(INDEX) if self._current_hash(INDEX) not in (None, record.get(INDEX), written) else None
            _replace(self.folder / INDEX, text.encode(), mode=0o600)  # its links sign a browser in
            self._write_record(record | {INDEX: written})
        return kept

    def readers_own(self) -> list[str]:
        """Return the names of files in the folder that the reader changed or added."""
        if not self.folder.is_dir():
            return []
        unchanged = {state.name for state in self.states() if not state.changed}
        if self._current_hash(INDEX) == self._record().get(INDEX):
            unchanged.add(INDEX)
        return sorted(file.name for file in self.folder.iterdir() if file.name not in unchanged | _BY_JUPYTER)

    def remove(self) -> None:
        """Delete the folder with everything in it."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    @contextmanager
    def in_use(self) -> Iterator[int]:
        """Mark the folder as open in JupyterLab. Yields a file descriptor; the mark ends when no process has that open any longer."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield handle
        finally:
            os.close(handle)

    @property
    def is_in_use(self) -> bool:
        """Whether a JupyterLab started by `userhooks lab` has the folder open."""
        if not self.folder.is_dir():
            return False
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            what = f"Cannot write to {self.folder}: {error.strerror}."
            raise ConfigurationError(what, "Run userhooks in a folder that you own.") from None

    def _current_hash(self, name: str) -> str | None:
        file = self.folder / name
        return content_hash(name, file.read_bytes()) if file.is_file() else None

    def _record(self) -> dict[str, str]:
        try:
            record: dict[str, str] = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # without a record, a copy that differs from the shipped file counts as changed
            return {}
        return record

    def _write_record(self, record: Mapping[str, str]) -> None:
        _replace(self.folder / RECORD, json.dumps(dict(sorted(record.items())), indent=1).encode() + b"\n")


def _fresh(file: Path) -> bytes:
    if file.suffix != ".ipynb":
        return file.read_bytes()
    copy = reader_copy(json.loads(file.read_text(encoding="utf-8")))
    return json.dumps(copy, indent=1, ensure_ascii=False).encode() + b"\n"


def _text(name: str, data: bytes) -> str:
    if not name.endswith(".ipynb"):
        return data.decode()
    return "\n".join(source_of(cell) for cell in json.loads(data)["cells"] if cell["cell_type"] == "markdown")


def _replace(file: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file atomically, so that nobody reads an incomplete one; the umask applies to its mode."""
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    new.touch(mode)
    new.write_bytes(data)
    new.replace(file)
