"""The reader's folder: copies are made once, and no command loses what a reader wrote in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from userhooks.errors import NotFound
from userhooks.lessons.copies import Copies, FreshCopy


def lesson(*sources: str) -> str:
    first, *others = sources
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "metadata": {}, "source": first}]
    cells += [{"cell_type": "code", "metadata": {}, "execution_count": 1, "outputs": [{}], "source": source} for source in others]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """The course as it is shipped: two lessons and what belongs to them."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    files = {
        "01_first.ipynb": lesson("# 01 · First\n\n[words](glossary.md) ![a dial](dial.png)", "print(1)"),
        "02_second.ipynb": lesson("# 02 · Second", "print(2)"),
        "glossary.md": "# Ten words",
        "alerts.yaml": "groups: []",
        "dial.png": "a picture",
        "unused.png": "another picture",
        "conftest.py": "raise SystemExit",
        "nbval.cfg": "[uuid]",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def copies(tmp_path: Path, shipped: Path) -> Copies:
    return Copies(tmp_path / "lessons", shipped)


@pytest.fixture
def made(copies: Copies) -> Copies:
    copies.copy()
    return copies


def later(copies: Copies, shipped: Path) -> Copies:
    """The same folder, as a newer version of the project with this course sees it."""
    return Copies(copies.folder, shipped)


def edit(copies: Copies, name: str, text: str = "my note") -> None:
    file = copies.folder / name
    if name.endswith(".ipynb"):
        notebook = json.loads(file.read_text())
        notebook["cells"].append({"cell_type": "markdown", "metadata": {}, "source": text})
        text = json.dumps(notebook)
    file.write_text(text)


def run(copies: Copies, name: str) -> None:
    """Change a copy as running its cells does."""
    notebook = json.loads((copies.folder / name).read_text())
    notebook["cells"][-1].update(execution_count=9, outputs=[{"output_type": "stream", "name": "stdout", "text": "1\n"}])
    (copies.folder / name).write_text(json.dumps(notebook))


def words(copies: Copies) -> dict[str, str]:
    return {state.name: str(state) for state in copies.states()}


def visible(copies: Copies) -> set[str]:
    return {file.name for file in copies.folder.iterdir() if not file.name.startswith(".")}


COURSE = {"01_first.ipynb", "02_second.ipynb", "alerts.yaml", "dial.png", "glossary.md"}


def test_a_folder_gets_the_lessons_and_what_they_use_and_nothing_of_the_tests(copies: Copies) -> None:
    assert set(copies.copy().made) == COURSE
    assert visible(copies) == COURSE
    assert json.loads((copies.folder / "01_first.ipynb").read_text())["cells"][1]["outputs"] == []
    assert set(words(copies).values()) == {"unchanged"}


def test_states_before_the_first_start_create_nothing(copies: Copies) -> None:
    assert set(words(copies).values()) == {"not copied yet"}
    assert not copies.folder.exists()


def test_a_second_start_changes_nothing_and_makes_what_was_deleted(made: Copies) -> None:
    edit(made, "01_first.ipynb")
    run(made, "02_second.ipynb")
    (made.folder / "glossary.md").unlink()
    before = {name: (made.folder / name).read_bytes() for name in ("01_first.ipynb", "02_second.ipynb")}
    assert made.copy().made == ["glossary.md"]
    assert {name: (made.folder / name).read_bytes() for name in before} == before


def test_running_cells_leaves_a_copy_unchanged_and_writing_changes_it(made: Copies) -> None:
    run(made, "01_first.ipynb")
    edit(made, "02_second.ipynb")
    edit(made, "alerts.yaml")
    assert words(made) == {
        "01_first.ipynb": "unchanged",
        "02_second.ipynb": "changed by you",
        "alerts.yaml": "changed by you",
        "dial.png": "unchanged",
        "glossary.md": "unchanged",
    }


def test_a_newer_lesson_replaces_an_unchanged_copy_and_is_reported_for_a_changed_one(made: Copies, shipped: Path) -> None:
    run(made, "01_first.ipynb")
    edit(made, "02_second.ipynb")
    for number in (1, 2):
        [file] = shipped.glob(f"0{number}_*")
        file.write_text(lesson(f"# 0{number} · Newer", "print(3)"))
    newer = later(made, shipped)
    assert words(newer)["01_first.ipynb"] == "unchanged; a newer version exists"
    assert words(newer)["02_second.ipynb"] == "changed by you; a newer version exists"
    report = newer.copy()
    assert (report.replaced, report.outdated) == (["01_first.ipynb"], ["02_second.ipynb"])
    assert "Newer" in (made.folder / "01_first.ipynb").read_text()
    assert "my note" in (made.folder / "02_second.ipynb").read_text()
    assert newer.copy().outdated == ["02_second.ipynb"], "it is reported at every start"
    assert words(newer)["01_first.ipynb"] == "unchanged"


def test_new_outputs_of_a_stored_lesson_are_not_a_newer_version(made: Copies, shipped: Path) -> None:
    notebook = json.loads((shipped / "01_first.ipynb").read_text())
    notebook["cells"][1]["outputs"] = []
    (shipped / "01_first.ipynb").write_text(json.dumps(notebook))
    assert words(later(made, shipped))["01_first.ipynb"] == "unchanged"


def test_a_withdrawn_lesson_is_removed_unless_the_reader_changed_it(made: Copies, shipped: Path) -> None:
    edit(made, "02_second.ipynb")
    for file in shipped.glob("0*"):
        file.unlink()
    newer = later(made, shipped)
    assert words(newer)["02_second.ipynb"] == "changed by you; no longer part of the course"
    assert newer.copy().removed == ["01_first.ipynb", "dial.png"]
    assert visible(newer) == {"02_second.ipynb", "alerts.yaml", "glossary.md"}


def test_a_reset_makes_a_fresh_copy_and_keeps_the_changed_one_beside_it(made: Copies) -> None:
    edit(made, "02_second.ipynb")
    [done] = made.reset(["2"])
    assert done.name == "02_second.ipynb"
    assert re.fullmatch(r"02_second\.old-\d{4}-\d\d-\d\dT\d{4}\.ipynb", done.kept or "")
    assert "my note" in (made.folder / str(done.kept)).read_text()
    assert (made.folder / "02_second.ipynb").read_bytes() == made.fresh["02_second.ipynb"]
    assert words(made)["02_second.ipynb"] == "unchanged"


def test_resets_within_a_minute_keep_every_changed_copy(made: Copies) -> None:
    kept = []
    for note in ("first", "second", "third"):
        edit(made, "02_second.ipynb", note)
        kept += [done.kept for done in made.reset(["02_second"])]
    assert [note in (made.folder / str(name)).read_text() for name, note in zip(kept, ("first", "second", "third"), strict=True)] == [
        True
    ] * 3


def test_a_reset_clears_the_outputs_of_an_unchanged_copy_and_keeps_no_second_one(made: Copies) -> None:
    run(made, "01_first.ipynb")
    assert made.reset(["01"]) == [FreshCopy("01_first.ipynb", None)]
    assert json.loads((made.folder / "01_first.ipynb").read_text())["cells"][1]["outputs"] == []
    assert visible(made) == COURSE


def test_a_reset_without_names_is_for_all_and_keeps_only_changed_ones(made: Copies) -> None:
    edit(made, "01_first.ipynb")
    edit(made, "alerts.yaml")
    kept = {done.name for done in made.reset() if done.kept}
    assert kept == {"01_first.ipynb", "alerts.yaml"}
    assert len(visible(made)) == len(COURSE) + 2


def test_a_reset_before_the_first_start_makes_the_copies(copies: Copies) -> None:
    assert {done.name for done in copies.reset()} == COURSE


@pytest.mark.parametrize("word", ["3", "first", "", "conftest.py", "../01_first.ipynb"])
def test_a_reset_of_a_lesson_that_does_not_exist_changes_nothing(made: Copies, word: str) -> None:
    edit(made, "01_first.ipynb")
    with pytest.raises(NotFound, match="userhooks lessons list"):
        made.reset(["01", word])
    assert visible(made) == COURSE


def test_a_copy_is_the_readers_if_the_record_is_lost(made: Copies) -> None:
    edit(made, "01_first.ipynb")
    (made.folder / ".copies.json").write_text("{")
    assert words(made)["01_first.ipynb"] == "changed by you"
    assert words(made)["02_second.ipynb"] == "unchanged"
    made.copy()
    assert "my note" in (made.folder / "01_first.ipynb").read_text()


# --- the start page, and what a reader would lose ------------------------------------------------------------------------


def test_the_start_page_is_written_anew_and_a_changed_one_is_kept(made: Copies) -> None:
    assert made.write_index("first") is None
    assert made.write_index("second") is None
    (made.folder / "index.md").write_text("my page")
    kept = made.write_index("third")
    assert (made.folder / str(kept)).read_text() == "my page"
    assert (made.folder / "index.md").read_text() == "third"


def test_the_start_page_is_private_because_its_links_sign_a_browser_in(made: Copies) -> None:
    made.write_index("a page")
    assert (made.folder / "index.md").stat().st_mode & 0o777 == 0o600


def test_only_what_a_reader_wrote_or_added_is_the_readers_own(made: Copies) -> None:
    made.write_index("the start page")
    run(made, "01_first.ipynb")
    (made.folder / ".ipynb_checkpoints").mkdir()
    assert made.readers_own() == []
    edit(made, "02_second.ipynb")
    edit(made, "index.md")
    (made.folder / "mine.py").touch()
    assert made.readers_own() == ["02_second.ipynb", "index.md", "mine.py"]


def test_the_folder_is_in_use_while_it_is_open(made: Copies) -> None:
    assert not made.is_in_use
    with made.in_use(), made.in_use():
        assert made.is_in_use
    assert not made.is_in_use


# --- which folder --------------------------------------------------------------------------------------------------------


def test_copies_are_in_the_checkout_or_else_in_the_working_directory(tmp_path: Path) -> None:
    inside = tmp_path / "checkout" / "tests"
    inside.mkdir(parents=True)
    (inside.parent / "pyproject.toml").write_text('name = "userhooks"')
    assert Copies.of(inside).folder == tmp_path / "checkout" / "lessons"
    assert Copies.of(tmp_path).folder == tmp_path / "lessons"


def test_a_command_within_the_copies_uses_them(tmp_path: Path) -> None:
    copies = Copies.of(tmp_path)
    copies.copy()
    (copies.folder / "mine").mkdir()
    assert Copies.of(copies.folder).folder == copies.folder
    assert Copies.of(copies.folder / "mine").folder == copies.folder
