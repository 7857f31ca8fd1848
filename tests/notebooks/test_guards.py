"""What keeps the strict comparison of the notebooks honest, read off their files."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.normalise import LIVE, normalise

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
PORTS = {"3333", "3334", "7376", "8376", "5433"}

FORBIDDEN_IN_OUTPUT = {
    "a token or secret": re.compile(r"Bearer [A-Za-z0-9_-]{16,}|api_token|SEQUIN_API_TOKEN=\S"),
    "a password in a URL": re.compile(r"postgres(?:ql)?://[^\s/]*:[^\s/@]+@"),
    "a home path": re.compile(r"/(?:home|root|Users|work|tmp)/"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "notebook" in metafunc.fixturenames:
        read = [nbformat.read(path, as_version=4) for path in PATHS]
        metafunc.parametrize("notebook", read, ids=[path.stem for path in PATHS])


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def output_text(cell: nbformat.NotebookNode) -> str:
    parts = []
    for output in cell.outputs:
        parts.append("".join(output.get("text", "")))
        parts += ["".join(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(parts)


def test_there_are_notebooks() -> None:
    assert len(PATHS) >= 4


def test_it_is_in_its_stored_form(notebook: nbformat.NotebookNode) -> None:
    assert nbformat.writes(normalise(notebook)) == nbformat.writes(notebook)


def test_every_code_cell_was_run_in_order(notebook: nbformat.NotebookNode) -> None:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_nothing_is_skipped_and_no_error_or_stderr_is_stored(notebook: nbformat.NotebookNode) -> None:
    for cell in code_cells(notebook):
        assert set(tags(cell)) <= {LIVE, "nbval-raises-exception", "solution"}
        kinds = [output["output_type"] for output in cell.outputs]
        assert "error" not in kinds or "nbval-raises-exception" in tags(cell)
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]


def test_most_cells_are_compared_and_some_of_them_show_something(notebook: nbformat.NotebookNode) -> None:
    cells = code_cells(notebook)
    compared = [cell for cell in cells if LIVE not in tags(cell)]
    assert len(compared) >= 0.6 * len(cells)
    assert [cell for cell in compared if cell.outputs]


def test_every_live_cell_is_followed_by_a_fact(notebook: nbformat.NotebookNode) -> None:
    cells = code_cells(notebook)
    for position, cell in enumerate(cells):
        if LIVE in tags(cell):
            following = [c for c in cells[position + 1 :] if LIVE not in tags(c)][:2]
            assert any(output.get("name") == "stdout" for c in following for output in c.outputs), cell.source


def test_cells_are_short_and_plain(notebook: nbformat.NotebookNode) -> None:
    for cell in code_cells(notebook):
        lines = cell.source.splitlines()
        assert len(lines) <= 12, cell.source
        assert not [line for line in lines if line.rstrip().endswith(";") or line.startswith(("%%", "!"))], cell.source


def test_stored_outputs_hold_no_secret_no_path_and_no_unusual_port(notebook: nbformat.NotebookNode) -> None:
    for cell in code_cells(notebook):
        text = output_text(cell)
        for what, pattern in FORBIDDEN_IN_OUTPUT.items():
            assert not pattern.search(text), f"{what} in the output of: {cell.source}"
        assert set(re.findall(r"(?:127\.0\.0\.1|localhost):(\d+)", text)) <= PORTS


def test_a_changed_reference_makes_the_strict_comparison_fail(tmp_path: Path) -> None:
    """One pair of cells in a notebook of its own: passes as it is, fails with another stored output."""
    cell = nbformat.v4.new_code_cell("print('1 delivered, 0 lost')", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="1 delivered, 0 lost\n")]
    honest = normalise(nbformat.v4.new_notebook(cells=[cell]))
    wrong = copy.deepcopy(honest)
    wrong.cells[0].outputs[0].text = "1 delivered, 1 lost\n"
    results = {}
    for name, notebook in (("honest", honest), ("wrong", wrong)):
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(notebook, path)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:python",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            "--rootdir",
            str(tmp_path),
        ]
        command += ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(FOLDER / "nbval.cfg"), str(path)]
        results[name] = subprocess.run(command, capture_output=True, text=True, timeout=120).returncode
    assert results == {"honest": 0, "wrong": 1}
