"""compose.yaml, sequin.yaml, and the texts about them agree with each other and with Sequin; no container is started."""

from __future__ import annotations

import argparse
import base64
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from userhooks import cli
from userhooks.engine.api.handlers import VERSION
from userhooks.engine.api.request_bodies import NAME
from userhooks.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
SEQUIN: dict[str, Any] = yaml.safe_load((ROOT / "sequin.yaml").read_text(encoding="utf-8"))
DATABASE: dict[str, Any] = SEQUIN["databases"][0]
[LESSON] = (ROOT / "notebooks").glob("10_*.ipynb")

# The environment variables and configuration keys that Sequin 0.14.6 reads (docs/reference/configuration and sequin-yaml).
ENVIRONMENT = {
    "PG_HOSTNAME", "PG_DATABASE", "PG_PORT", "PG_USERNAME", "PG_PASSWORD", "PG_POOL_SIZE", "REDIS_URL", "CONFIG_FILE_PATH",
    "SECRET_KEY_BASE", "VAULT_KEY", "SEQUIN_TELEMETRY_DISABLED", "CRASH_REPORTING_DISABLED",
}  # fmt: skip
KEYS = {
    "": {"account", "users", "api_tokens", "databases"},
    "databases": {"name", "hostname", "port", "database", "username", "password", "slot", "publication", "await_database"},
    "slot": {"name", "create_if_not_exists"},
    "publication": {"name", "create_if_not_exists", "init_sql"},
    "await_database": {"timeout_ms", "interval_ms"},
}


def comment() -> list[str]:
    """Return the commands in the comment of compose.yaml, without the explanations next to them."""
    return [line[4:].split("  #")[0].strip() for line in TEXT.partition("services:")[0].splitlines() if line.startswith("#   ")]


def console(text: str) -> list[str]:
    """Return the commands in the console blocks of a text."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line[2:].split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def lesson() -> list[str]:
    return [line for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "markdown" for line in console(cell.source)]


def variables(commands: list[str]) -> dict[str, str]:
    """Return the variables that the commands export."""
    exports = [shlex.split(line)[1:] for line in commands if line.startswith("export ")]
    return dict(one.split("=", 1) for words in exports for one in words)


def published(service: str) -> dict[int, int]:
    """Return a mapping of container ports to ports on this machine."""
    ports = [one.split(":") for one in SERVICES[service].get("ports", [])]
    return {int(inside): int(outside) for _, outside, inside in ports}


# --- the containers ----------------------------------------------------------------------------------------------------


def test_the_images_are_those_that_this_project_knows() -> None:
    assert SERVICES["sequin"]["image"] == f"sequin/sequin:{VERSION}"
    name, _, major = SERVICES["app-db"]["image"].partition(":")
    assert name == "postgres"
    assert int(major) >= 15  # FOR TABLES IN SCHEMA
    assert SERVICES["redis"]["image"] == "redis:7"


def test_sequin_finds_what_it_is_told_to_use() -> None:
    sequin, environment = SERVICES["sequin"], SERVICES["sequin"]["environment"]
    assert environment.keys() == ENVIRONMENT
    assert sequin["depends_on"].keys() == SERVICES.keys() - {"sequin"}
    for service, on in sequin["depends_on"].items():
        assert on["condition"] == ("service_healthy" if "healthcheck" in SERVICES[service] else "service_started")
    assert environment["PG_HOSTNAME"] in SERVICES
    assert urlsplit(environment["REDIS_URL"]).hostname in SERVICES
    assert f"./sequin.yaml:{environment['CONFIG_FILE_PATH']}:ro" in sequin["volumes"]
    assert len(environment["SECRET_KEY_BASE"]) >= 64
    assert len(base64.b64decode(environment["VAULT_KEY"], validate=True)) >= 32


def test_the_one_postgres_makes_both_databases_and_what_sequin_may_fail_to_make() -> None:
    environment, database = SERVICES["sequin"]["environment"], SERVICES["app-db"]
    [script] = [COMPOSE["configs"][one["source"]]["content"] for one in database["configs"]]
    slot = f"SELECT pg_create_logical_replication_slot('{DATABASE['slot']['name']}', 'pgoutput')"
    assert script.split(";\n") == [f"CREATE DATABASE {environment['PG_DATABASE']}", DATABASE["publication"]["init_sql"], slot, ""]
    assert [one["target"].rpartition("/")[0] for one in database["configs"]] == ["/docker-entrypoint-initdb.d"]
    assert database["environment"] == {"POSTGRES_PASSWORD": environment["PG_PASSWORD"], "POSTGRES_DB": DATABASE["database"]}
    assert database["command"] == ["postgres", "-c", "wal_level=logical"]
    assert DATABASE["database"] in database["healthcheck"]["test"][1]


def test_what_must_survive_a_restart_is_in_volumes_that_are_declared() -> None:
    named = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", []) if not volume.startswith("./")}
    assert named == COMPOSE["volumes"].keys()


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


# --- sequin.yaml -------------------------------------------------------------------------------------------------------


def test_the_configuration_has_the_keys_that_sequin_knows() -> None:
    assert SEQUIN.keys() == KEYS[""]
    assert DATABASE.keys() == KEYS["databases"]
    for part in ("slot", "publication", "await_database"):
        assert DATABASE[part].keys() == KEYS[part]
    assert DATABASE["slot"]["create_if_not_exists"] is DATABASE["publication"]["create_if_not_exists"] is True
    assert DATABASE["await_database"]["timeout_ms"] > DATABASE["await_database"]["interval_ms"] >= 1000


def test_the_database_in_it_is_the_service_as_the_container_sees_it() -> None:
    assert DATABASE["hostname"] in SERVICES
    assert DATABASE["port"] in published(DATABASE["hostname"])
    assert DATABASE["password"] == SERVICES[DATABASE["hostname"]]["environment"]["POSTGRES_PASSWORD"]
    assert DATABASE["username"] == "postgres"  # the image's default role; a superuser, which a publication of a whole schema requires


def test_the_configuration_says_what_a_real_server_was_started_with() -> None:
    """A real 0.14.6 accepted this file; this test fails if a setting that it relied on changes."""
    assert DATABASE["name"] == Settings(Path()).sequin_database
    assert DATABASE["slot"] == {"name": "sequin_slot", "create_if_not_exists": True}
    assert DATABASE["publication"] == {
        "name": "sequin_pub",
        "create_if_not_exists": True,
        "init_sql": "CREATE PUBLICATION sequin_pub FOR TABLES IN SCHEMA public WITH (publish_via_partition_root = true)",
    }
    assert SEQUIN["api_tokens"] == [{"name": "tutorial", "token": "tutorial-token"}]
    assert SEQUIN["account"] == {"name": "tutorial"}  # users and tokens belong to the account; with a single account, they do not name it
    assert "functions" not in SEQUIN  # userhooks applies its own filter function
    assert published("sequin").keys() == {7376, 8376}


@pytest.mark.parametrize("commands", [comment(), lesson()], ids=["compose.yaml", "lesson 10"])
def test_each_variable_is_exported_once(commands: list[str]) -> None:
    names = [word.split("=", 1)[0] for line in commands if line.startswith("export ") for word in shlex.split(line)[1:]]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", [DATABASE["name"], *(token["name"] for token in SEQUIN["api_tokens"])])
def test_names_in_it_are_names_to_sequin(name: str) -> None:
    assert NAME.fullmatch(name)


def test_the_publication_takes_tables_that_are_made_later(database_url: str) -> None:
    name = DATABASE["publication"]["name"]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(DATABASE["publication"]["init_sql"].encode())
        connection.execute("CREATE TABLE notifications (id int PRIMARY KEY)")
        connection.execute("CREATE SCHEMA elsewhere CREATE TABLE orders (id int PRIMARY KEY)")
        connection.execute(f"ALTER PUBLICATION {name} ADD TABLE elsewhere.orders".encode())  # as lesson 11 does
        found = connection.execute("SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = %s ORDER BY 1", [name])
        assert found.fetchall() == [("elsewhere", "orders"), ("public", "notifications")]


# --- documented commands and variables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("commands", [comment(), lesson()], ids=["compose.yaml", "lesson 10"])
def test_the_variables_are_settings_and_fit_the_files(commands: list[str], tmp_path: Path) -> None:
    given = variables(commands)
    settings, default = Settings.from_env(given, tmp_path), Settings.from_env({}, tmp_path)
    changed = {one.name for one in fields(Settings) if getattr(settings, one.name) != getattr(default, one.name)}
    assert len(changed) == len(given)  # Settings reads each variable, and each has an effect
    assert settings.sequin_api_token in [token["token"] for token in SEQUIN["api_tokens"]]
    assert settings.sequin_database == DATABASE["name"]
    assert settings.sequin_url == f"http://localhost:{published('sequin')[7376]}"
    assert settings.sequin_metrics_url == f"http://localhost:{published('sequin')[8376]}/metrics"
    assert settings.database_url is not None
    assert conninfo_to_dict(settings.database_url) == {
        "user": DATABASE["username"],
        "password": DATABASE["password"],
        "host": "localhost",
        "port": str(published("app-db")[DATABASE["port"]]),
        "dbname": DATABASE["database"],
    }
    assert settings.inspector_bind == "0.0.0.0"  # noqa: S104
    public = urlsplit(settings.inspector_public_url or "")
    assert f"{public.hostname}:host-gateway" in SERVICES["sequin"]["extra_hosts"]
    assert public.port == settings.ports["inspector"]
    assert "_" not in (public.hostname or "_")  # Sequin refuses host names with an underscore


@pytest.mark.parametrize("commands", [comment(), lesson()], ids=["compose.yaml", "lesson 10"])
def test_every_command_is_one_that_there_is(commands: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    programs = set()
    for words in map(shlex.split, commands):
        programs.add(words[0])
        match words:
            case ["userhooks", *arguments]:
                assert isinstance(cli._parser().parse_args(arguments), argparse.Namespace)
            case ["make", target]:
                assert target in targets
            case ["docker", *arguments]:
                assert arguments == ["compose", "up", "--detach"]
            case ["source", path]:
                assert path == ".venv/bin/activate"
            case _:
                assert words[0] == "export"
    assert programs >= {"docker", "export"}


def test_the_lesson_and_the_file_tell_the_same_variables() -> None:
    assert variables(comment()) == variables(lesson())


def test_the_readme_names_every_variable() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in [*variables(comment()), "SEQUIN_DATABASE"] if f"`{name}`" not in readme and f"`{name}=" not in readme] == []
