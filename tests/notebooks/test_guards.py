"""What keeps the notebooks in one form and their strict comparison honest, read off their files; README.md says it in words."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.comparison import differs
from tests.notebooks.mutations import changes, fact_cells
from tests.notebooks.normalise import CHECK, LIVE, SOLUTION, normalise

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
PORTS = {"3333", "3334", "7376", "8376", "5433"}

FORBIDDEN_IN_OUTPUT = {
    "a token or secret": re.compile(r"Bearer [A-Za-z0-9_-]{16,}|api_token|SEQUIN_API_TOKEN=\S"),
    "a password in a URL": re.compile(r"postgres(?:ql)?://[^\s/]*:[^\s/@]+@"),
    "a home path": re.compile(r"/(?:home|root|Users|work|tmp|var)/"),
}
GOALS = re.compile(r"When you are through[\w ]* \(about [\w ]+ minutes\),? you can\n\n((?:- .+\n(?:  .+\n)*){3,5})(?:\n|$)")
PREDICTION = re.compile(r"\*\*[^*]*predict[^*]*\*\*", re.IGNORECASE)
FOLDED = re.compile(r"<details><summary>[^<\n]+\?</summary>\n\n.+?\n+</details>", re.DOTALL)
CODE_IN_TEXT = re.compile(r"`[^`]*(?:\(|userhooks |make )[^`]*`")
LINK = re.compile(r"\]\(([^)#]+)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" in metafunc.fixturenames:
        metafunc.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def section(notebook: nbformat.NotebookNode, heading: str) -> str:
    """What stands under the one heading of this name, up to the next."""
    found = [
        part.partition("\n")[2]
        for text in texts(notebook)
        for part in re.split(r"^## ", text, flags=re.MULTILINE)
        if part.startswith(heading)
    ]
    assert len(found) == 1, f"one heading {heading}, not {len(found)}"
    return found[0]


def output_text(cell: nbformat.NotebookNode) -> str:
    parts = []
    for output in cell.outputs:
        parts.append("".join(output.get("text", "")))
        parts += ["".join(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(parts)


def test_there_are_notebooks_numbered_without_a_gap_in_the_short_course() -> None:
    assert [path.stem[:2] for path in PATHS[:4]] == ["01", "02", "03", "04"]


# --- the stored form -------------------------------------------------------------------------------------------------------


def test_it_is_in_its_stored_form(notebook: nbformat.NotebookNode) -> None:
    assert nbformat.writes(normalise(notebook)) == nbformat.writes(notebook)


def test_every_code_cell_was_run_in_order(notebook: nbformat.NotebookNode) -> None:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_nothing_is_skipped_and_no_error_or_stderr_is_stored(notebook: nbformat.NotebookNode) -> None:
    for cell in code_cells(notebook):
        assert set(tags(cell)) <= {CHECK, LIVE, "nbval-raises-exception", SOLUTION}
        kinds = [output["output_type"] for output in cell.outputs]
        assert "error" not in kinds or "nbval-raises-exception" in tags(cell)
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]


def test_stored_outputs_hold_no_secret_no_path_and_no_unusual_port(notebook: nbformat.NotebookNode) -> None:
    for cell in code_cells(notebook):
        text = output_text(cell)
        for what, pattern in FORBIDDEN_IN_OUTPUT.items():
            assert not pattern.search(text), f"{what} in the output of: {cell.source}"
        assert set(re.findall(r"(?:127\.0\.0\.1|localhost):(\d+)", text)) <= PORTS


# --- what is compared ------------------------------------------------------------------------------------------------------


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
            shown = [output for c in following for output in c.outputs]
            assert any(out.get("name") == "stdout" or "text/html" in out.get("data", {}) for out in shown), cell.source


def test_any_line_of_a_fact_that_were_otherwise_would_fail_the_comparison(notebook: nbformat.NotebookNode) -> None:
    positions = fact_cells(notebook)
    assert len(positions) >= 5
    for position in positions:
        cell = notebook.cells[position]
        assert not differs(cell, cell)
        wrong = list(changes(cell))
        assert wrong
        for other in wrong:
            assert differs(reference=other, came=cell), other.outputs


# --- the cells ---------------------------------------------------------------------------------------------------------------


def lines_of(cell: nbformat.NotebookNode) -> int:
    return len([line for line in cell.source.splitlines() if line.strip()])


def test_cells_are_short_and_plain(notebook: nbformat.NotebookNode) -> None:
    lengths = sorted(lines_of(cell) for cell in code_cells(notebook))
    assert min(lengths) >= 1
    assert lengths[-1] <= 16
    assert lengths[-2] <= 12
    assert len([length for length in lengths if length > 6]) <= len(lengths) / 4, lengths
    for cell in code_cells(notebook):
        assert max(map(len, cell.source.splitlines())) <= 110, f"wider than a page beside the list of files: {cell.source}"
        assert not [line for line in cell.source.splitlines() if line.rstrip().endswith(";") or line.startswith(("%%", "!"))], cell.source


def test_all_imports_stand_in_the_first_cell(notebook: nbformat.NotebookNode) -> None:
    first, *others = (ast.parse(cell.source) for cell in code_cells(notebook))
    assert any(isinstance(node, ast.ImportFrom) and node.module == "userhooks" for node in ast.walk(first))
    for tree in others:
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)], ast.unparse(tree)


def test_no_cell_needs_what_a_check_defines_because_a_readers_copy_has_no_checks(notebook: nbformat.NotebookNode) -> None:
    defined: dict[bool, set[str]] = {True: set(), False: set()}
    for cell in code_cells(notebook):
        is_check = CHECK in tags(cell)
        names = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
        defined[is_check] |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
        used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
        assert is_check or not used & (defined[True] - defined[False]), cell.source


def test_nothing_sleeps(notebook: nbformat.NotebookNode) -> None:
    for cell in code_cells(notebook):
        assert "sleep(" not in cell.source


def test_text_and_code_take_turns(notebook: nbformat.NotebookNode) -> None:
    kinds = "".join(cell.cell_type[0] for cell in notebook.cells if CHECK not in tags(cell))
    assert "ccc" not in kinds
    assert "mmm" not in kinds


# --- the lesson --------------------------------------------------------------------------------------------------------------


def test_it_begins_with_its_number_and_what_one_will_be_able_to_do(path: Path, notebook: nbformat.NotebookNode) -> None:
    opening = notebook.cells[0].source
    assert opening.startswith(f"# {path.stem[:2]} · ")
    assert GOALS.search(re.sub(r"(?<=\S)\n(?=[^\s-])", " ", opening) + "\n")


def test_the_first_code_cell_starts_the_stack_and_the_lesson(path: Path, notebook: nbformat.NotebookNode) -> None:
    first = code_cells(notebook)[0].source
    assert "\nstack = Stack.start()\n" in first
    assert f'lesson = stack.lesson("{path.stem[:2]}")' in first


def test_a_result_shows_in_the_first_three_code_cells(notebook: nbformat.NotebookNode) -> None:
    assert any(output.get("name") == "stdout" for cell in code_cells(notebook)[:3] for output in cell.outputs)


def test_a_prediction_is_asked_for_before_a_cell_and_explained_folded_after_it(notebook: nbformat.NotebookNode) -> None:
    cells = [cell for cell in notebook.cells if CHECK not in tags(cell)]
    asked = [n for n, cell in enumerate(cells) if cell.cell_type == "markdown" and PREDICTION.search(cell.source)]
    assert asked
    for position in asked:
        after = cells[position + 1 : position + 7]
        assert after[0].cell_type == "code", cells[position].source
        folded = [text for cell in after for text in FOLDED.findall(cell.source) if "<summary>What happened?</summary>" in text]
        assert any("predict" in text.lower() for text in folded), cells[position].source


def test_a_question_has_a_folded_answer(notebook: nbformat.NotebookNode) -> None:
    together = "\n\n".join(texts(notebook))
    assert FOLDED.search(together)
    assert together.count("<details>") == together.count("</details>") == len(FOLDED.findall(together))


def test_one_exercise_has_a_folded_solution_that_is_run_and_compared(notebook: nbformat.NotebookNode) -> None:
    assert section(notebook, "Exercise").strip()
    [asked] = [n for n, cell in enumerate(notebook.cells) if cell.cell_type == "markdown" and "## Exercise" in cell.source]
    solutions = [n for n, cell in enumerate(notebook.cells) if SOLUTION in tags(cell)]
    assert solutions == [asked + 1]
    solution = notebook.cells[asked + 1]
    assert solution.metadata["jupyter"]["source_hidden"] is True
    assert asked + 1 in fact_cells(notebook)


def test_it_names_two_causes_and_a_command_for_when_it_did_not_work(notebook: nbformat.NotebookNode) -> None:
    said = section(notebook, "If this did not happen")
    assert len(re.findall(r"^- ", said, flags=re.MULTILINE)) >= 2
    assert CODE_IN_TEXT.search(said)


def test_it_ends_with_what_was_seen_and_a_link_to_the_next(path: Path, notebook: nbformat.NotebookNode) -> None:
    assert len(section(notebook, "What you have seen").split()) >= 15
    following = PATHS[PATHS.index(path) + 1 :][:1]
    for other in following:
        title = nbformat.read(other, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ")
        assert f"[{title}]({other.name})" in notebook.cells[-1].source


def links(text: str) -> Iterator[str]:
    for target in LINK.findall(text):
        if not target.startswith(("http://", "https://")):
            yield target


def test_links_lead_somewhere(path: Path, notebook: nbformat.NotebookNode) -> None:
    for text in texts(notebook):
        for target in links(text):
            assert (path.parent / target).is_file(), target
            assert "/" not in target, f"JupyterLab opens nothing outside its folder: {target}"


def test_the_readme_links_every_notebook_in_order_by_its_title() -> None:
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d) \| \[([^\]]+)\]\(notebooks/([^)]+\.ipynb)\) \| \S.+ \|$", readme, flags=re.MULTILINE)
    titles = [nbformat.read(path, as_version=4).cells[0].source.splitlines()[0] for path in PATHS]
    assert [(f"# {number} · {title}", name) for number, title, name in rows] == [
        (title, path.name) for title, path in zip(titles, PATHS, strict=True)
    ]


def test_the_glossary_explains_fifteen_words_and_is_linked_from_the_first_lesson() -> None:
    glossary = (FOLDER / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| \*\*([^*]+)\*\* \| .+\. \| (\d\d) \|$", glossary, flags=re.MULTILINE)
    assert len(words) == 15
    assert all((FOLDER / target).is_file() for target in links(glossary))
    assert "(glossary.md)" in nbformat.read(PATHS[0], as_version=4).cells[0].source
    for word, number in words:
        lesson = next(path for path in PATHS if path.stem.startswith(number))
        assert word.lower() in "\n".join(texts(nbformat.read(lesson, as_version=4))).lower(), f"{word} in lesson {number}"


# --- the guards themselves -----------------------------------------------------------------------------------------------------

Notebook = nbformat.NotebookNode


def replaced(old: str, new: str) -> Callable[[Notebook], None]:
    """Put `new` for `old` wherever a cell has it; one has."""

    def damage(notebook: Notebook) -> None:
        assert any(old in cell.source for cell in notebook.cells), old
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)

    return damage


def printed(text: str) -> Callable[[Notebook], None]:
    """Let the last cell that prints have printed this."""
    return lambda notebook: notebook.cells[fact_cells(notebook)[-1]].outputs[0].update(text=text)


def tagged(tag: str, cells: slice) -> Callable[[Notebook], None]:
    def damage(notebook: Notebook) -> None:
        for cell in code_cells(notebook)[cells]:
            cell.metadata["tags"] = [*tags(cell), tag]

    return damage


DAMAGES = [
    (test_it_is_in_its_stored_form, lambda notebook: notebook.cells[1].metadata.update(collapsed=True)),
    (test_every_code_cell_was_run_in_order, lambda notebook: code_cells(notebook)[2].update(execution_count=None)),
    (test_nothing_is_skipped_and_no_error_or_stderr_is_stored, tagged("nbval-skip", slice(3, 4))),
    (
        test_nothing_is_skipped_and_no_error_or_stderr_is_stored,
        lambda notebook: notebook.cells[fact_cells(notebook)[0]].outputs[0].update(name="stderr"),
    ),
    (test_stored_outputs_hold_no_secret_no_path_and_no_unusual_port, printed("Authorization: Bearer 0123456789abcdef")),
    (test_stored_outputs_hold_no_secret_no_path_and_no_unusual_port, printed("postgresql://ada:secret@127.0.0.1:5433/app")),
    (test_stored_outputs_hold_no_secret_no_path_and_no_unusual_port, printed("/home/ada/notebooks")),
    (test_stored_outputs_hold_no_secret_no_path_and_no_unusual_port, printed("http://127.0.0.1:41235/in/x")),
    (test_most_cells_are_compared_and_some_of_them_show_something, tagged(LIVE, slice(None, None, 2))),
    (test_every_live_cell_is_followed_by_a_fact, tagged(LIVE, slice(-1, None))),
    (test_any_line_of_a_fact_that_were_otherwise_would_fail_the_comparison, printed("11111111-1111-1111-1111-111111111111\n")),
    (test_cells_are_short_and_plain, lambda notebook: notebook.cells[1].update(source="x = 1\n" * 17)),
    (test_cells_are_short_and_plain, lambda notebook: notebook.cells[1].update(source="%%time\nx = 1")),
    (test_cells_are_short_and_plain, lambda notebook: notebook.cells[1].update(source=f"x = {'1' * 110}")),
    (test_all_imports_stand_in_the_first_cell, lambda notebook: code_cells(notebook)[1].update(source="import time")),
    (test_no_cell_needs_what_a_check_defines_because_a_readers_copy_has_no_checks, tagged(CHECK, slice(0, 1))),
    (test_nothing_sleeps, lambda notebook: code_cells(notebook)[1].update(source="time.sleep(1)")),
    (test_text_and_code_take_turns, lambda notebook: (notebook.cells.pop(2), notebook.cells.pop(3))),
    (test_it_begins_with_its_number_and_what_one_will_be_able_to_do, replaced("- subscribe a user's URL", "Subscribe a user's URL")),
    (test_it_begins_with_its_number_and_what_one_will_be_able_to_do, replaced("# 01 ·", "# 1 ·")),
    (test_the_first_code_cell_starts_the_stack_and_the_lesson, replaced('stack.lesson("01")', 'stack.lesson("02")')),
    (
        test_a_result_shows_in_the_first_three_code_cells,
        lambda notebook: [cell.update(outputs=[]) for cell in code_cells(notebook)[:3]],
    ),
    (test_a_prediction_is_asked_for_before_a_cell_and_explained_folded_after_it, replaced("**Predict:", "**Guess:")),
    (test_a_prediction_is_asked_for_before_a_cell_and_explained_folded_after_it, replaced("If you predicted", "If you expected")),
    (test_a_prediction_is_asked_for_before_a_cell_and_explained_folded_after_it, replaced("<details><summary>What happened?", "")),
    (test_a_question_has_a_folded_answer, replaced("</details>", "")),
    (test_a_question_has_a_folded_answer, replaced("<details><summary>", "")),
    (test_one_exercise_has_a_folded_solution_that_is_run_and_compared, replaced("## Exercise", "## Task")),
    (test_one_exercise_has_a_folded_solution_that_is_run_and_compared, tagged("solution", slice(0, 1))),
    (
        test_one_exercise_has_a_folded_solution_that_is_run_and_compared,
        lambda notebook: [cell.metadata.pop("jupyter", None) for cell in notebook.cells],
    ),
    (test_it_names_two_causes_and_a_command_for_when_it_did_not_work, replaced("## If this did not happen", "## Trouble")),
    (test_it_names_two_causes_and_a_command_for_when_it_did_not_work, replaced("`userhooks", "`")),
    (test_it_ends_with_what_was_seen_and_a_link_to_the_next, replaced("(02_traffic.ipynb)", "(03_backfill.ipynb)")),
    (test_links_lead_somewhere, replaced("(02_traffic.ipynb)", "(02_nothing.ipynb)")),
    (test_links_lead_somewhere, replaced("(02_traffic.ipynb)", "(../README.md)")),
]


@pytest.mark.parametrize(("guard", "damage"), DAMAGES, ids=[f"{guard.__name__}-{number}" for number, (guard, _) in enumerate(DAMAGES)])
def test_a_guard_notices_what_it_is_for(guard: Callable[..., None], damage: Callable[[Notebook], object]) -> None:
    notebook = nbformat.read(PATHS[0], as_version=4)
    arguments = {"path": PATHS[0]} if "path" in signature(guard).parameters else {}
    guard(**arguments, notebook=notebook)
    damage(notebook)
    with pytest.raises((AssertionError, KeyError)):
        guard(**arguments, notebook=notebook)
