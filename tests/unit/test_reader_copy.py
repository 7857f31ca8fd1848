"""The reader's copy of a lesson: what it has, what it leaves out, and what counts as a change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from userhooks.lessons.reader_copy import content_hash, linked_files, reader_copy, source_of

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def code(source: str, *tags: str, **metadata: Any) -> dict[str, Any]:
    outputs = [{"output_type": "stream", "name": "stdout", "text": "3 webhooks\n"}]
    return {
        "id": f"cell-{len(source):02}",
        "cell_type": "code",
        "source": source,
        "metadata": {**({"tags": list(tags)} if tags else {}), **metadata},
        "execution_count": 7,
        "outputs": outputs,
    }


def text(source: str) -> dict[str, Any]:
    return {"id": f"text-{len(source):02}", "cell_type": "markdown", "source": source, "metadata": {}}


def notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}


def stored(*cells: dict[str, Any]) -> bytes:
    return json.dumps(notebook(*cells)).encode()


def test_a_copy_has_every_cell_and_no_output() -> None:
    copy = reader_copy(notebook(text("# 01 · Title"), code("inbox.frame()")))
    assert [source_of(cell) for cell in copy["cells"]] == ["# 01 · Title", "inbox.frame()"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in copy["cells"] if cell["cell_type"] == "code"] == [([], None)]
    assert copy["metadata"] == {"kernelspec": {"name": "python3"}}


def test_a_copy_leaves_out_what_only_the_tests_need() -> None:
    copy = reader_copy(notebook(code("shown"), code("print(len(lines))", "check"), code("live", "nbval-ignore-output", "wide")))
    assert [source_of(cell) for cell in copy["cells"]] == ["shown", "live"]
    assert [cell["metadata"] for cell in copy["cells"]] == [{}, {"tags": ["wide"]}]


def test_a_solution_becomes_folded_text_below_a_cell_for_the_readers_own() -> None:
    solution = code("for row in rows:\n    print(row)", "solution", jupyter={"source_hidden": True})
    asked, attempt, folded = reader_copy(notebook(text("## Exercise"), solution))["cells"]
    assert source_of(asked) == "## Exercise"
    assert (attempt["cell_type"], attempt["outputs"]) == ("code", [])
    assert "print(row)" not in source_of(attempt)
    assert (folded["cell_type"], folded["metadata"]) == ("markdown", {})
    assert source_of(folded) == (
        "<details><summary>Show a solution</summary>\n\n```python\nfor row in rows:\n    print(row)\n```\n\n</details>"
    )


def test_a_solution_in_two_cells_has_one_cell_for_the_readers_own() -> None:
    copy = reader_copy(notebook(text("## Exercise"), code("a = 1", "solution"), code("print(a)", "solution")))
    assert [cell["cell_type"] for cell in copy["cells"]] == ["markdown", "code", "markdown", "markdown"]


def test_a_solution_that_contains_a_fence_stays_in_its_own() -> None:
    [*_, folded] = reader_copy(notebook(code('print("""\n````text\n""")', "solution")))["cells"]
    assert source_of(folded).count("`````") == 2


def test_the_stored_notebook_is_not_modified() -> None:
    original = notebook(code("shown", "nbval-ignore-output"), code("solved", "solution"))
    before = json.dumps(original)
    reader_copy(original)
    assert json.dumps(original) == before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_the_copy_of_a_lesson_is_a_valid_notebook(path: Path) -> None:
    copy = reader_copy(json.loads(path.read_text(encoding="utf-8")))
    nbformat.validate(nbformat.from_dict(copy))
    assert not [cell for cell in copy["cells"] if {"check", "solution"} & set(cell["metadata"].get("tags", []))]
    assert any("Show a solution" in source_of(cell) for cell in copy["cells"])


# --- what counts as a change ---------------------------------------------------------------------------------------------


def changed(*cells: dict[str, Any]) -> bool:
    """Return whether a notebook with these cells counts as changed from one with a text and two code cells."""
    original = stored(text("# Title"), code("first"), code("second"))
    return content_hash("01.ipynb", original) != content_hash("01.ipynb", stored(*cells))


def test_running_cells_is_not_a_change() -> None:
    run = code("second", collapsed=True, execution={"iopub.status.busy": "2026-11-29"})
    run.update(execution_count=12, outputs=[])
    assert not changed(text("# Title"), code("first"), run)


def test_the_empty_cell_that_shift_enter_adds_is_not_a_change() -> None:
    assert not changed(text("# Title"), code("first"), code("second"), code(" \n"))


def test_widget_state_and_the_form_of_the_file_are_not_a_change() -> None:
    saved = notebook(text("# Title"), code("first\nsecond"))
    loose = json.loads(json.dumps(saved))
    loose["metadata"]["widgets"] = {"state": {}}
    loose["cells"][1]["source"] = ["first\n", "second"]
    assert content_hash("01.ipynb", json.dumps(saved, indent=1).encode()) == content_hash("01.ipynb", json.dumps(loose).encode())


@pytest.mark.parametrize(
    "cells",
    [
        (text("# Title"), code("first"), code("second + 1")),
        (text("# Title"), code("second"), code("first")),
        (text("# Title"), code("first")),
        (text("# Title"), code("first"), code("second"), text("my note")),
        (text("# Title"), code("first"), text("second")),
        (text("# Title") | {"attachments": {"me.png": {"image/png": ""}}}, code("first"), code("second")),
    ],
)
def test_what_a_reader_writes_is_a_change(cells: tuple[dict[str, Any], ...]) -> None:
    assert changed(*cells)


def test_a_file_that_is_not_a_notebook_is_changed_by_any_byte() -> None:
    assert content_hash("glossary.md", b"a") == content_hash("glossary.md", b"a")
    assert content_hash("glossary.md", b"a") != content_hash("glossary.md", b"a\n")
    for broken in (b"{", b"[]", b'{"cells": [1]}', b"\xff"):
        assert content_hash("01.ipynb", broken) != content_hash("01.ipynb", stored())


# --- links ---------------------------------------------------------------------------------------------------------------


def test_links_to_files_in_the_same_folder_are_found_in_either_notation() -> None:
    written = (
        '[next](02_traffic.ipynb#start) ![it](live.png "title") <img src="dial.svg" alt=""> [web](https://a.b/c.png) [up](../x.png) [a](#b)'
    )
    assert linked_files(written) == {"02_traffic.ipynb", "live.png", "dial.svg"}
