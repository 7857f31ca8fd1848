"""What is installed: pyproject.toml, requirements.lock, environment.yml, and the files of Binder and Codespaces say the same."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from userhooks.settings import Settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def wanted() -> dict[str, tuple[int, ...]]:
    """Package -> lower bound, extras and markers left out."""
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    found = [re.match(r"([A-Za-z0-9_.-]+)(?:\[.*?\])?>=([0-9.]+)", line) for line in lines]
    assert all(found), lines
    return {one.group(1).lower().replace("_", "-"): numbers(one.group(2)) for one in found if one}


def locked() -> dict[str, list[tuple[int, ...]]]:
    """Package -> the versions that are pinned for one platform or another."""
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


def test_the_lock_has_a_hash_for_everything_and_no_address() -> None:
    requirements = re.split(r"\n(?=[a-z0-9])", LOCK.strip())
    assert all("--hash=sha256:" in one for one in requirements)
    assert "://" not in LOCK


@pytest.mark.parametrize(("file", "project"), [("environment.yml", "-e .[test]"), (".binder/environment.yml", "-e ..")])
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
    assert container["postCreateCommand"] == "make install"
    ports = Settings.from_env({}).ports
    assert {ports["server"], ports["inspector"]} < set(container["forwardPorts"])
    assert {str(port) for port in container["forwardPorts"]} == set(container["portsAttributes"])
    assert container["remoteEnv"]["PATH"].startswith("${containerWorkspaceFolder}/.venv/bin:")
