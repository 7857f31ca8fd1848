"""What is installed: pyproject.toml, requirements.lock and environment.yml say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

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


def test_the_conda_environment_installs_this_project_with_a_python_that_it_supports() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    python, pip, section = environment["dependencies"]
    major, minor = numbers(python.removeprefix("python="))
    assert (3, 11) <= (major, minor) <= (3, 14)
    assert PROJECT["requires-python"] == ">=3.11"
    assert pip == "pip"
    assert section == {"pip": ["-e .[test]"]}
