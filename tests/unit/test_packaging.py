"""The project's metadata: pyproject.toml, the lock, and the files for conda, Binder, Codespaces, CI and pre-commit agree."""

from __future__ import annotations

import json
import os
import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import userhooks
from userhooks.engine.delivery.request_head import USER_AGENT
from userhooks.settings import Settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def dependencies() -> list[str]:
    """Return every requirement in pyproject.toml, including those of extras."""
    return [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]


def wanted() -> dict[str, tuple[int, ...]]:
    """Return the lower bound of each package, without extras and markers."""
    lines = dependencies()
    found = [re.match(r"([A-Za-z0-9_.-]+)(?:\[.*?\])?>=([0-9.]+)", line) for line in lines]
    assert all(found), lines
    return {one.group(1).lower().replace("_", "-"): numbers(one.group(2)) for one in found if one}


def locked() -> dict[str, list[tuple[int, ...]]]:
    """Return the versions of each package that are pinned for any platform."""
    pins: dict[str, list[tuple[int, ...]]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)(?:\[.*?\])?==([0-9.]+)", LOCK, re.MULTILINE):
        pins.setdefault(name, []).append(numbers(version))
    return pins


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.strip(".").split("."))


def test_every_dependency_is_locked_at_or_above_its_lower_bound() -> None:
    pins = locked()
    for name, bound in wanted().items():
        assert pins[name], name
        assert all(version >= bound for version in pins[name]), name


def test_every_locked_version_is_within_the_bounds_of_pyproject() -> None:
    pins = locked()
    for requirement in (Requirement(line) for line in dependencies()):
        versions = [".".join(map(str, pin)) for pin in pins[requirement.name.lower()]]
        assert [pin for pin in versions if pin not in requirement.specifier] == [], f"requirements.lock, {requirement}: run `make lock`"


def test_uvicorn_is_capped_at_the_minor_version_after_the_locked_one() -> None:
    """The canary in `test_uvicorn_canary.py` runs with the locked version, so no later minor version has been checked."""
    (bounds,) = [requirement.specifier for line in dependencies() if (requirement := Requirement(line)).name == "uvicorn"]
    (cap,) = [bound.version for bound in bounds if bound.operator == "<"]
    ((major, minor, *_),) = locked()["uvicorn"]
    assert cap == f"{major}.{minor + 1}", "pyproject.toml's cap on uvicorn must be the minor version after that in requirements.lock"


def test_the_lock_has_a_hash_for_everything_and_no_address() -> None:
    requirements = re.split(r"\n(?=[a-z0-9])", LOCK.strip())
    assert all("--hash=sha256:" in one for one in requirements)
    assert "://" not in LOCK


@pytest.mark.parametrize(("file", "project"), [("environment.yml", "-e .[lab,test]"), (".binder/environment.yml", "-e ..[lab]")])
def test_a_conda_environment_installs_this_project_with_a_python_that_it_supports(file: str, project: str) -> None:
    environment = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    python, pip, section = environment["dependencies"]
    assert python == "python=3.13"
    assert PROJECT["requires-python"] == ">=3.11"
    assert pip == "pip"
    assert section == {"pip": [project]}
    folder = project.removeprefix("-e ").partition("[")[0]
    assert ((ROOT / file).parent / folder).resolve() == ROOT, "pip is run in the file's folder"


def test_codespaces_use_the_same_python_the_same_install_and_the_usual_ports() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["image"].endswith("/python:3.13")
    assert container["postCreateCommand"] == "make install && .venv/bin/userhooks lessons copy"
    ports = Settings.from_env({}).ports
    assert {ports["server"], ports["inspector"]} < set(container["forwardPorts"])
    assert {str(port) for port in container["forwardPorts"]} == set(container["portsAttributes"])
    assert container["remoteEnv"]["PATH"].startswith("${containerWorkspaceFolder}/.venv/bin:")


def test_binder_makes_the_copies_that_the_lab_makes_elsewhere() -> None:
    script = ROOT / ".binder" / "postBuild"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").endswith("\nuserhooks lessons copy\n")


def test_git_ignores_the_readers_copies_and_nothing_of_the_package() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/lessons/" in ignored
    assert "lessons/" not in ignored, "this would also match userhooks/lessons/"


# --- the first texts people read -------------------------------------------------------------------------------------------


def test_the_metadata_and_the_user_agent_have_the_version_of_the_package() -> None:
    assert metadata("userhooks")["Version"] == userhooks.__version__
    assert f"userhooks/{userhooks.__version__}" == USER_AGENT


def test_the_license_is_named_as_an_expression_and_its_text_is_there() -> None:
    assert PROJECT["license"] == "MIT"
    (file,) = PROJECT["license-files"]
    assert (ROOT / file).read_text(encoding="utf-8").startswith("MIT License\n")
    assert not [line for line in PROJECT["classifiers"] if line.startswith("License ::")], "PEP 639: an expression or classifiers"


def test_the_changelog_has_a_section_for_what_is_not_released() -> None:
    sections = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sections[0] == "[Unreleased]"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "README.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w./])(?:userhooks|tests|notebooks|sql|\.github)/[\w./-]*\w\.(?:py|md|ipynb|yml|sql)\b", text))
    assert named or page in {"SECURITY.md", "CHANGELOG.md"}
    assert not {path for path in named if not (ROOT / path).is_file()}


def test_contributing_names_every_package_of_python() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    packages = {file.parent.name for file in (ROOT / "userhooks").glob("*/__init__.py")}
    assert packages == set(re.findall(r"`userhooks/(\w+)/`", text)) - {"sql"}


def test_every_make_target_that_a_page_names_exists() -> None:
    for page in ("CONTRIBUTING.md", "README.md", "tests/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text)) <= targets(), page


# --- the Pythons -----------------------------------------------------------------------------------------------------------


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def claimed() -> list[str]:
    """Return the minor versions that the classifiers name."""
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    return [version.group(1) for version in found if version]


def workflow() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    return loaded


def test_classifiers_and_requires_python_and_the_venv_script_name_the_same_versions() -> None:
    assert PROJECT["requires-python"] == f">={claimed()[0]}"
    minors = [numbers(version)[1] for version in claimed()]
    assert minors == list(range(minors[0], minors[-1] + 1))
    for script in (".ci/make-venv", ".ci/run"):
        text = (ROOT / script).read_text(encoding="utf-8")
        assert f"not (3, {minors[0]}) <= sys.version_info[:2] <= (3, {minors[-1]})" in text
        assert set(re.findall(r"python(3\.\d+)\b", text)) == set(claimed()), script


def test_the_workflow_runs_every_version_on_linux_and_macos() -> None:
    matrix = workflow()["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == claimed()
    assert [system.partition("-")[0] for system in matrix["os"]] == ["ubuntu", "macos"]


def test_contributing_says_where_each_claimed_version_has_run() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Where it has run")[2]
    assert re.findall(r"^\| \w.*? \| (3\.\d+)", table, re.MULTILINE) == claimed()


def test_the_workflow_runs_make_targets_with_few_rights() -> None:
    steps = [step for job in workflow()["jobs"].values() for step in job["steps"]]
    commands = [line for step in steps for line in step.get("run", "").splitlines() if not line.startswith("apt-get ")]
    made = [re.fullmatch(r"make ([a-z-]+)(?: PYTHON=\S+)?", line) for line in commands]
    assert all(made), commands
    assert {"install", "test", "demo", "browser"} == {target.group(1) for target in made if target} & targets()
    assert workflow()["permissions"] == {"contents": "read"}


def test_the_hooks_run_commands_of_make_lint() -> None:
    recipe = re.search(r"^lint: .*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.group(1).splitlines()]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    assert [hook["id"] for hook in repository["hooks"]] == ["ruff-check", "ruff-format", "mypy", "notebooks"]
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert any(command.startswith(hook["entry"]) for command in commands), hook["entry"]
