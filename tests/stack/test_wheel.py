"""The wheel on its own: built from an sdist, installed with the core dependencies only, and run from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from userhooks.lessons.copies import Copies
from userhooks.settings import PORT_VARIABLES
from userhooks.stack.home import Home

ROOT = Path(__file__).parents[2]
SOURCES = ("userhooks", "notebooks", "sql", "pyproject.toml", "README.md", "LICENSE")
PACKAGED = {".ipynb", ".md", ".png", ".yaml"}
QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")

# Records each file of the checkout that a Python process of the venv opens.
WATCH = """
import os, sys

def watch(event, arguments, sources={sources!r}, report={report!r}):
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(sources):
        with open(report, "a") as file:
            file.write(arguments[0] + chr(10))

sys.addaudithook(watch)
"""


def pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built by `pip wheel` from the files of an sdist only."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder)
        elif (ROOT / name).is_symlink():
            (folder / name).symlink_to((ROOT / name).readlink())
        else:
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    code = "import setuptools.build_meta as backend; backend.build_sdist('dist')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (archive,) = (folder / "dist").iterdir()
    pip("wheel", *QUIET, "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "wheels"), str(archive))
    (built,) = (folder / "wheels").iterdir()
    return built


def required(distribution: Distribution) -> set[Path]:
    """Return the files and folders of a distribution's direct and indirect dependencies, without extras."""
    entries: set[Path] = set()
    pending, known = [(distribution, "")], set()
    while pending:
        current, extra = pending.pop()
        for requirement in map(Requirement, current.requires or []):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            dependency = Distribution.from_name(requirement.name)
            entries |= {Path(str(dependency.locate_file(file.parts[0]))) for file in dependency.files or [] if file.parts[0] != ".."}
            new = {(requirement.name, name) for name in ("", *requirement.extras)} - known
            known |= new
            pending += [(dependency, name) for _, name in new]
    return {entry for entry in entries if entry.name != "__pycache__"}


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a venv with the wheel and its dependencies without extras, which are linked from the development venv."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    own = folder / "bin" / "python"
    pip("--python", str(own), "install", *QUIET, "--no-index", "--no-deps", "--no-compile", str(wheel))
    (packages,) = folder.glob("lib/python3.*/site-packages")
    for entry in required(Distribution.at(next(packages.glob("userhooks-*.dist-info")))):
        (packages / entry.name).symlink_to(entry)
    sources = tuple(f"{ROOT / name}/" for name in ("userhooks", "notebooks", "sql"))
    (packages / "sitecustomize.py").write_text(WATCH.format(sources=sources, report=str(folder / "opened")))
    return own


def test_a_wheel_contains_the_sql_and_the_notebooks_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = [*(ROOT / "sql").iterdir(), *(file for file in (ROOT / "notebooks").iterdir() if file.suffix in PACKAGED)]
    assert len(packaged) > 15
    assert {f"userhooks/{file.parent.name}/{file.name}" for file in packaged} <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"userhooks"}


def test_a_wheel_contains_every_file_of_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    left_out = {"__pycache__", ".ipynb_checkpoints", "notebooks"}
    files = [path for path in (ROOT / "userhooks").rglob("*") if path.is_file() and not left_out & set(path.parts)]
    assert {str(path.relative_to(ROOT)) for path in files} <= names


@dataclass(frozen=True)
class Outside:
    """A working directory outside the checkout, in which the wheel's commands run with the default home."""

    folder: Path
    python: Path

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the venv with these variables and none of the tests' own settings."""
        excluded = ("USERHOOKS_", "SEQUIN_", "DATABASE_URL", "PYTHONPATH")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(excluded)}
        environment |= {**dict.fromkeys(PORT_VARIABLES.values(), "0"), **variables}
        program, *arguments = command
        return subprocess.run(
            [str(self.python.with_name(program)), *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def succeed(self, *command: str, **variables: str) -> str:
        """Run a program of the venv, which must succeed, and return its output."""
        done = self.run(*command, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def outside(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """An empty folder with a running stack."""
    folder = tmp_path_factory.mktemp("outside")
    outside = Outside(folder, python)
    try:
        outside.succeed("userhooks", "up", "--detach")
        yield outside
    finally:
        outside.succeed("userhooks", "down")
        Home(folder / ".userhooks").remove()


IMPORT_ALL = """
import pkgutil, sys, userhooks
from userhooks.errors import ConfigurationError

for module in pkgutil.walk_packages(userhooks.__path__, "userhooks.", onerror=lambda name: None):
    if module.name.endswith(".__main__"):
        continue
    try:
        __import__(module.name)
    except ConfigurationError as error:
        print(module.name, *str(error).splitlines(), sep="|")
"""


def test_without_the_lab_extra_only_modules_that_draw_cannot_be_imported_and_say_what_to_install(outside: Outside) -> None:
    failures = [line.split("|") for line in outside.succeed("python", "-c", IMPORT_ALL).splitlines()]
    assert {name for name, *_ in failures} == {"userhooks.plots", "userhooks.stack.sequin_metrics", "userhooks.widgets"}
    assert {what for _, what, _ in failures} <= {
        f"{library} is not installed." for library in ("ipywidgets", "matplotlib", "numpy", "pandas")
    }
    assert {remedy for *_, remedy in failures} == {"Install the libraries for the notebooks with: pip install 'userhooks[lab]'"}


def test_without_the_lab_extra_the_lab_command_says_what_to_install(outside: Outside) -> None:
    done = outside.run("userhooks", "lab")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: JupyterLab is not installed.\n")
    assert "userhooks[lab]" in done.stderr


def test_without_the_lab_extra_a_table_says_what_to_install(outside: Outside) -> None:
    code = "from userhooks import Stack; print(Stack.attach().inspector.inbox('ada').requests())"
    done = outside.run("python", "-c", code)
    assert done.stderr.endswith("pandas is not installed.\nInstall the libraries for the notebooks with: pip install 'userhooks[lab]'\n")


def test_the_demo_runs_from_a_wheel_and_opens_no_file_of_the_checkout(outside: Outside) -> None:
    assert "0 lost, 0 duplicated, 0 foreign" in outside.succeed("userhooks", "demo", "--seconds", "1")
    opened = outside.python.parents[1] / "opened"
    assert not opened.exists(), opened.read_text()
    assert [file.name for file in outside.folder.iterdir()] == [".userhooks"]


def test_the_lab_of_a_wheel_opens_copies_of_the_lessons_and_keeps_changed_ones(outside: Outside) -> None:
    copies = outside.folder / "lessons"
    copies.mkdir()
    (copies / "01_first_webhook.ipynb").write_text("the reader's")
    outside.succeed("userhooks", "lab", "--no-browser", "--", "--version", PYTHONPATH=sysconfig.get_path("purelib"))
    assert {*Copies(outside.folder).fresh, "index.md"} == {file.name for file in copies.iterdir() if not file.name.startswith(".")}
    assert (copies / "01_first_webhook.ipynb").read_text() == "the reader's"
    assert outside.succeed("userhooks", "lessons").count("unchanged") == len(Copies(outside.folder).fresh) - 1
