"""compose.yaml and sequin.yaml, parsed and held to each other and to what the toolkit expects; no container is started."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import yaml

from userhooks.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
SEQUIN: dict[str, Any] = yaml.safe_load((ROOT / "sequin.yaml").read_text(encoding="utf-8"))


def variables() -> dict[str, str]:
    """The variables that the comment tells the reader to export."""
    return dict(re.findall(r"([A-Z_]+)=(\S+)", TEXT.partition("services:")[0]))


def test_the_variables_of_the_comment_are_valid_settings_that_fit_the_files(tmp_path: Path) -> None:
    settings = Settings.from_env(variables(), tmp_path)
    database = SEQUIN["databases"][0]
    assert settings.sequin_api_token == SEQUIN["api_tokens"][0]["token"]
    assert settings.sequin_database == database["name"]
    assert settings.database_url is not None
    assert settings.database_url.endswith(f"@localhost:{database['port']}/{database['database']}")
    assert settings.inspector_public_url is not None
    assert "_" not in settings.inspector_public_url  # Sequin takes no host name with an underscore


def test_sequin_finds_the_services_that_it_names() -> None:
    sequin = SERVICES["sequin"]
    assert sequin["image"].endswith(":v0.14.6")
    assert set(sequin["depends_on"]) <= SERVICES.keys()
    assert SEQUIN["databases"][0]["hostname"] in SERVICES
    assert sequin["environment"]["PG_HOSTNAME"] in SERVICES
    assert len(sequin["environment"]["SECRET_KEY_BASE"]) >= 64
    assert len(base64.b64decode(sequin["environment"]["VAULT_KEY"])) == 32
    assert "wal_level=logical" in SERVICES["app-db"]["command"]


def test_ports_are_open_to_this_machine_only() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
