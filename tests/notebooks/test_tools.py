"""The tools that store and compare notebooks."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat

from tests.notebooks.comparison import differs
from tests.notebooks.mutations import changes
from tests.notebooks.normalise import LIVE, SOLUTION, normalise
from tests.notebooks.refresh import with_usual_ports
from tests.notebooks.strictly import differences


def cell(source: str, *outputs: nbformat.NotebookNode, tags: tuple[str, ...] = ()) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), execution_count=7, metadata={"tags": list(tags)} if tags else {})


def printed(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def stored(*cells: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return list(normalise(nbformat.v4.new_notebook(cells=list(cells))).cells)


def test_a_solution_is_stored_folded_and_other_metadata_goes() -> None:
    plain, solution = stored(cell("1"), cell("2", tags=(SOLUTION,)))
    assert plain.metadata == {}
    assert solution.metadata == {"jupyter": {"source_hidden": True}, "tags": [SOLUTION]}
    assert [plain.execution_count, solution.execution_count] == [1, 2]


def test_of_a_live_cell_text_and_pictures_are_stored() -> None:
    data = {"text/plain": "a table", "text/html": "<table>", "image/png": "aGk=", "application/vnd.jupyter.widget-view+json": {}}
    [live] = stored(cell("show", nbformat.v4.new_output("execute_result", data=data), tags=(LIVE,)))
    assert set(live.outputs[0].data) == {"text/plain", "image/png"}


def test_a_bar_that_filled_in_a_live_cell_is_not_stored() -> None:
    data = {"text/plain": "0%", "application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    [live] = stored(cell("work", nbformat.v4.new_output("display_data", data=data), printed("done\n"), tags=(LIVE,)))
    assert [output.get("text") for output in live.outputs] == ["done\n"]


def test_addresses_of_this_stack_are_stored_with_the_usual_ports() -> None:
    output = printed("http://127.0.0.1:41235/in/x, localhost:41236, 41235 rows, http://10.0.0.1:41235/")
    [changed_output] = with_usual_ports([output], {"41235": "3334", "41236": "3333"})
    assert changed_output["text"] == "http://127.0.0.1:3334/in/x, localhost:3333, 41235 rows, http://10.0.0.1:41235/"


def test_each_line_that_was_printed_is_changed_once_and_the_comparison_notices() -> None:
    fact = cell("facts", printed("sent 200, lost 0\norder kept: True\n\n"))
    wrong = [other.outputs[0].text for other in changes(fact)]
    assert wrong == ["sent 200, lost 1\norder kept: True\n\n", "sent 200, lost 0\norder kept: notTrue\n\n"]
    assert all(differs(other, fact) for other in changes(fact))
    assert not differs(fact, fact)


def test_what_the_sanitize_file_hides_makes_no_difference() -> None:
    assert not differs(cell("url", printed("http://127.0.0.1:3334\n")), cell("url", printed("http://127.0.0.1:41235\n")))
    assert differs(cell("port", printed("3334\n")), cell("port", printed("41235\n")))


def test_the_strict_run_fails_at_the_one_cell_that_shows_something_else(tmp_path: Path) -> None:
    facts = [cell("print('lost:', 0)", printed("lost: 0\n")), cell("print('rows:', 200)", printed("rows: 201\n"))]
    live = cell("print('p99 3 ms')", printed("p99 9 ms\n"), tags=(LIVE,))
    path = tmp_path / "facts.ipynb"
    nbformat.write(normalise(nbformat.v4.new_notebook(cells=[*facts, live])), path)
    said = differences([path], os.environ)
    assert re.findall(r"^FAILED \S*::(Cell \d+)", said, re.MULTILINE) == ["Cell 1"], said
