"""Which modules may import which: pure modules do no I/O, only the stack imports the engine, and `import userhooks` stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "userhooks"
PURE = [
    "web/access_tokens.py",
    "web/addresses.py",
    "webhooks/sequin_resources.py",
    "webhooks/subscription_secret.py",
    "ledger/arrivals.py",
    "ledger/changes.py",
    "ledger/report.py",
    "ledger/rows.py",
    "ledger/wal.py",
    "shared/extras.py",
    "shared/html_table.py",
    "lessons/faults.py",
    "lessons/traffic_window.py",
    "widgets/traffic_picture.py",
    "lessons/reader_copy.py",
    "lessons/start_page.py",
    "inspector/messages.py",
    "stack/sequin_metrics.py",
    "shared/percentiles.py",
    "engine/api/responses.py",
    "engine/api/filter_lists.py",
    "engine/api/yaml_config.py",
    "engine/console/html.py",
    "engine/console/json_view.py",
    "engine/console/rate_chart.py",
    "engine/console/recent_messages.py",
    "engine/console/sink_settings.py",
    *(str(path.relative_to(PACKAGE)) for path in sorted((PACKAGE / "engine" / "functions").rglob("*.py"))),
    "engine/sink_functions.py",
    "engine/sink_health.py",
    "engine/delivery/latency_histogram.py",
    "engine/capture/lost_changes.py",
    "engine/delivery/circuit_breaker.py",
    "engine/delivery/groups.py",
    "engine/delivery/pending_message.py",
    "engine/delivery/request_builder.py",
    "engine/delivery/retry_queue.py",
    "engine/delivery/sink_history.py",
    "engine/delivery/spill.py",
    "engine/postgres/lsn.py",
    "engine/postgres/pgoutput.py",
    "engine/capture/confirmable_lsn.py",
    "engine/api/api_errors.py",
    "engine/change.py",
    "engine/exact_json.py",
    "engine/message_format.py",
    "engine/table_shape.py",
    "engine/delivery/request_head.py",
    "engine/api/request_bodies.py",
    "engine/resources.py",
    "engine/delivery/retry.py",
    "engine/routing.py",
    "engine/postgres/snapshot.py",
    "engine/postgres/diagnosis.py",
    "engine/postgres/pg_types.py",
    "inspector/response_script.py",
    "inspector/bodies.py",
    "shared/json_text.py",
    "inspector/judgement.py",
    "inspector/rates.py",
]
IMPURE = {"asyncio", "httpx", "os", "pathlib", "psycopg", "random", "select", "socket", "sqlite3", "ssl", "subprocess", "threading", "time"}
IMPURE |= {"uvicorn", "starlette", "fastapi", "ipywidgets", "matplotlib"}


def imports(path: Path, *, at_run_time: bool = True) -> set[str]:
    """Return the dotted names of the modules that a file imports; those under `if TYPE_CHECKING` only on request."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if at_run_time and isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_imports_no_io_no_clock_and_no_randomness(name: str) -> None:
    assert not {module.partition(".")[0] for module in imports(PACKAGE / name)} & IMPURE


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_imports_only_pure_ones_of_the_package(name: str) -> None:
    pure = {"userhooks." + one.removesuffix(".py").replace("/", ".") for one in PURE} | {"userhooks.errors"}
    modules = {
        one
        for one in imports(PACKAGE / name)
        if one.startswith("userhooks.") and (PACKAGE.parent / f"{one.replace('.', '/')}.py").is_file()
    }
    assert modules <= pure


def test_nothing_but_the_engine_imports_the_engine() -> None:
    """The supervisor starts the engine by name, as a separate program."""
    for path in PACKAGE.rglob("*.py"):
        if "engine" not in path.relative_to(PACKAGE).parts:
            assert not {one for one in imports(path, at_run_time=False) if one.startswith("userhooks.engine")}, path


@pytest.mark.parametrize(("library", "only"), [("matplotlib", {"plots"}), ("ipywidgets", {"widgets"})])
def test_a_heavy_library_has_one_importer(library: str, only: set[str]) -> None:
    """Only one file or folder of the package imports it."""
    paths = [path for path in PACKAGE.rglob("*.py") if library in {one.partition(".")[0] for one in imports(path)}]
    assert {path.relative_to(PACKAGE).parts[0] for path in paths} <= only


@pytest.mark.parametrize("folder", ["", "engine"])
def test_no_package_imports_one_that_imports_it(folder: str) -> None:
    """The check covers the packages and the single modules directly inside the folder."""
    root = PACKAGE / folder
    prefix = ".".join(["userhooks", *root.relative_to(PACKAGE).parts]) + "."
    uses: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        members = [
            module.removeprefix(prefix).partition(".")[0] for module in imports(path, at_run_time=False) if module.startswith(prefix)
        ]
        own = path.relative_to(root).parts[0].removesuffix(".py")
        uses.setdefault(own, set()).update(member for member in members if (root / member).is_dir() or (root / f"{member}.py").is_file())
    order = TopologicalSorter({member: used - {member} for member, used in uses.items() if member not in ("__init__", "__main__")})
    order.prepare()  # raises CycleError, which names the cycle


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, userhooks; print(*{'pandas', 'matplotlib', 'ipywidgets', 'psycopg', 'httpx', 'IPython'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_every_module_says_what_lives_there() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_no_module_and_no_class_has_the_name_of_another() -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if path.stem not in ("__init__", "__main__")]
    classes = [node.name for path in paths for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    for names in ([path.stem for path in paths], classes):
        assert not {name for name, count in Counter(names).items() if count > 1}


def test_the_path_of_a_row_has_at_most_seven_files_and_names_only_files_that_exist() -> None:
    text = (PACKAGE / "engine" / "README.md").read_text(encoding="utf-8")
    path = text.partition("## The path of a row")[2].partition("\n## ")[0]
    assert 1 <= len(re.findall(r"^\| `", path, re.M)) <= 7
    for name in re.findall(r"`([a-z_/]+(?:\.py|/))`", path):
        assert (PACKAGE / "engine" / name).exists(), name


def test_a_long_module_and_a_long_class_say_why_they_are_long() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        module = ast.parse(text)
        long: list[ast.Module | ast.ClassDef] = [module] if len(text.splitlines()) > 400 else []
        long += [node for node in module.body if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= 250]
        for node in long:
            assert "is long because" in (ast.get_docstring(node) or ""), (path, getattr(node, "name", "module"))
