"""What a reader meets in a real kernel when something goes wrong: two lines that help, and a Stop button that works at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks.kernel import Kernel, running_kernel
from tests.notebooks.stack import OwnStack, own_stack

START = "Start it with Stack.start() in a notebook, with userhooks up --detach in a terminal"


@pytest.fixture(scope="module")
def stack() -> Iterator[OwnStack]:
    with own_stack() as one:
        yield one


@pytest.fixture(scope="module")
def kernel(stack: OwnStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with running_kernel(stack.environment, tmp_path_factory.mktemp("kernel")) as one:
        assert not one.run("import os, socket\nfrom userhooks import Stack, widgets").error
        yield one


@pytest.fixture
def lesson(kernel: Kernel) -> Kernel:
    assert not kernel.run('stack = Stack.start()\nlesson = stack.lesson("kernel")').error
    return kernel


# --- errors ----------------------------------------------------------------------------------------------------------------


def test_a_cell_that_is_run_too_early_says_what_to_run(lesson: Kernel) -> None:
    assert lesson.run("ledger.verdict()").error == [
        "NameError: name 'ledger' is not defined",
        "If a cell above defines it, run that cell first: Run, Run All Above Selected Cell. Otherwise, check the spelling.",
    ]


def test_a_missing_name_inside_a_library_keeps_its_traceback(lesson: Kernel) -> None:
    code = "import types\nlibrary = types.ModuleType('library')\nexec('def call(): return missing', library.__dict__)\nlibrary.call()"
    assert len(lesson.run(code).error) > 2


@pytest.mark.parametrize(
    ("code", "what", "remedy"),
    [
        ('lesson.insert("dee", "x")', "NotFound: This lesson has no user 'dee'.", "Its users are ada, ben, cy."),
        ('lesson.backfill("ada")', "NotFound: ada has no subscription to backfill.", 'Run lesson.subscribe("ada", url='),
        ('lesson.subscribe("ada", url="ada.example")', "InvalidInput: webhookUrl must begin with http://", "Use a URL like https://"),
        (
            'lesson.inbox("ada").wait_for(1, timeout=0)',
            "DeliveriesMissing: 0 of 1 message arrived",
            "No request arrived. Check that this inbox's URL",
        ),
        (
            'stack.subscriptions.backfill(lesson.subscribe("ada", url=lesson.inbox("ada").url).sink_name, user_id=lesson.user("ben"))',
            "Forbidden: The sink user-",
            "Give the name of one of this user's own sinks.",
        ),
    ],
)
def test_a_wrong_call_is_answered_in_two_lines(lesson: Kernel, code: str, what: str, remedy: str) -> None:
    said = lesson.run(code).error
    assert len(said) == 2
    assert said[0].startswith(what)
    assert said[1].startswith(remedy)


@pytest.mark.parametrize(
    ("part", "code", "what"),
    [
        ("sequin", 'lesson.subscribe("ada", url=lesson.inbox("ada").url)', "SequinUnreachable: Sequin at http://127.0.0.1:"),
        ("inspector", 'lesson.inbox("ada").wait_for(1)', "NotRunning: The inspector does not answer at http://127.0.0.1:"),
        ("postgres", "lesson.generate(rate=10, seconds=1)", "DatabaseUnavailable: The database at 127.0.0.1:"),
        ("server", "Stack.attach()", "NotRunning: Not running: server."),
    ],
)
def test_a_part_that_is_down_is_named_and_the_first_cell_starts_it(lesson: Kernel, part: str, code: str, what: str) -> None:
    assert not lesson.run(f'stack.kill("{part}")').error
    said = lesson.run(code).error
    assert len(said) == 2
    assert said[0].startswith(what)
    assert said[1].startswith(START)
    again = lesson.run('stack = Stack.start()\nlesson = stack.lesson("kernel")\nlesson.subscribe("ada", url=lesson.inbox("ada").url)')
    assert not again.error
    assert "Back" in lesson.run('lesson.insert("ada", "Back"); print(lesson.inbox("ada").wait_for(1)[0].record["message"])').text


def test_a_stack_that_was_stopped_says_how_to_start_it(lesson: Kernel) -> None:
    assert not lesson.run("stack.stop()").error
    what, remedy = lesson.run('lesson.insert("ada", "x")').error
    assert what.startswith("DatabaseUnavailable: The database at 127.0.0.1:")
    assert what.endswith("is not available: Connection refused.")
    assert remedy == f"{START}; or correct DATABASE_URL."


def in_a_new_home(tmp_path: Path) -> str:
    return f'os.environ["USERHOOKS_HOME"] = "{tmp_path / "home"}"\nStack.start()'


@pytest.fixture
def own_environment(lesson: Kernel) -> Iterator[Kernel]:
    lesson.run("kept = dict(os.environ)")
    yield lesson
    lesson.run("Stack.attach().stop()")  # what began in the new home, in spite of what was wrong
    assert not lesson.run("os.environ.clear(); os.environ.update(kept)").error


def test_a_port_that_is_taken_is_named_with_its_variable(own_environment: Kernel, tmp_path: Path) -> None:
    own_environment.run('taken = socket.create_server(("127.0.0.1", 0))\nos.environ["USERHOOKS_SERVER_PORT"] = str(taken.getsockname()[1])')
    what, remedy = own_environment.run(in_a_new_home(tmp_path)).error
    assert what.startswith("ConfigurationError: Port ")
    assert "set USERHOOKS_SERVER_PORT to another port" in remedy


def test_a_wrong_token_is_named(own_environment: Kernel, tmp_path: Path) -> None:
    real = 'dict(DATABASE_URL=stack.database_url, SEQUIN_URL=stack.sequin.url, SEQUIN_API_TOKEN="wrong")'
    own_environment.run(f"os.environ.update({real})")
    what, remedy = own_environment.run(f'{in_a_new_home(tmp_path)}.lesson("kernel")').error
    assert what.startswith("SequinUnauthorized: ")
    assert "SEQUIN_API_TOKEN" in remedy


# --- a lesson in two kernels, or run again -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_kernel(stack: OwnStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with running_kernel(stack.environment, tmp_path_factory.mktemp("other")) as one:
        assert not one.run("from userhooks import Stack").error
        yield one


ELSEWHERE = "was started again in another notebook or kernel."
FIRST_CELL = "Run this notebook's first cell again, then the cells down to this one."


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ('lesson.insert("ada", "x")', f"NotFound: Lesson 20 {ELSEWHERE}"),
        ("inbox.wait_for(5, timeout=30)", f"NotFound: Lesson 20 {ELSEWHERE}"),
        ("ledger.verdict()", f"NotFound: Lesson 20 {ELSEWHERE}"),
        ("stack.subscriptions.pause(sink)", "NotFound: There is no subscription with the sink user-2001-notifications."),
        ("stack.backfill(sink)", "NotFound: There is no subscription with the sink user-2001-notifications."),
        ("stack.sequin.update_sink(sink, actions=['insert'])", "SequinNotFound: Sequin does not know what was asked for."),
        ("{}['ben']", "KeyError: 'ben'"),
        ("raise ValueError('not enough values\\nto unpack')", "ValueError: not enough values"),
    ],
)
def test_a_lesson_that_another_kernel_started_says_so_in_two_lines(kernel: Kernel, other_kernel: Kernel, code: str, what: str) -> None:
    start = 'stack = Stack.start()\nlesson = stack.lesson("20")'
    assert not kernel.run(start).error
    more = 'inbox = lesson.inbox("ada")\nsink = lesson.subscribe("ada", url=inbox.url).sink_name\nledger = lesson.ledger(wal=True)'
    assert not kernel.run(more).error
    assert not other_kernel.run(start).error
    said = kernel.run(code).error
    assert len(said) == 2
    assert said[0].startswith(what)
    assert f"Lesson 20 {ELSEWHERE} {FIRST_CELL}".endswith(said[1])
    assert not kernel.run(f"{start}\n{more}").error


def test_a_lesson_that_was_closed_says_which_cell_starts_it(lesson: Kernel) -> None:
    lesson.run("lesson.close()")
    assert lesson.run("undefined_key = {}['x']").error == ["KeyError: 'x'", f"Lesson kernel was closed. {FIRST_CELL}"]


def test_an_error_in_a_lesson_that_goes_on_keeps_its_traceback(lesson: Kernel) -> None:
    assert len(lesson.run("{}['x']").error) > 2


AGAIN = "Run, Run All Above Selected Cell, then run this one."


def test_a_cell_that_worked_before_and_fails_now_says_how_to_start_over(lesson: Kernel) -> None:
    assert not lesson.run("left = ['once']").error
    code = "taken = left.pop()"
    assert not lesson.run(code).error
    said = lesson.run(code).error
    assert any("IndexError: pop from empty list" in line for line in said)
    assert AGAIN in said[-1]


def test_a_cell_that_fails_because_one_above_it_ran_twice_says_how_to_start_over(lesson: Kernel) -> None:
    lesson.run("ada = lesson.inbox('ada')")
    subscribe = "sink = lesson.subscribe('ada', url=ada.url).sink_name\nstack.subscriptions.unsubscribe(sink)"
    for _ in range(2):
        assert not lesson.run(subscribe).error
    said = lesson.run("stack.subscriptions.pause(sink)").error
    assert said[0].startswith("NotFound: There is no subscription with the sink user-")
    assert AGAIN in said[-1]
    assert "Its users are" in lesson.run("lesson.user('dee')").error[1]


@pytest.mark.parametrize("code", ["lesson.subscribe('ada', url='ada.example')", "lesson.inbox('ada').respond(status='x')"])
def test_an_error_that_the_order_of_cells_does_not_cause_is_shown_as_ever(lesson: Kernel, code: str) -> None:
    for _ in range(2):
        lesson.run("ada = lesson.inbox('ada')")
    said = lesson.run(code).error
    assert said
    assert AGAIN not in said[-1]


def test_a_cell_whose_cells_above_were_skipped_says_to_run_them(lesson: Kernel) -> None:
    said = lesson.run("with stack.database.connect() as db:\n    db.execute('SELECT FROM lesson_06.letters')").error
    assert len(said) == 2
    assert said[0].startswith('DatabaseUnsuitable: relation "lesson_06.letters" does not exist')
    assert AGAIN in said[1]
    assert AGAIN in lesson.run("{}['action']").error[-1]


def test_a_first_cell_that_fails_has_no_cells_above(lesson: Kernel) -> None:
    assert AGAIN not in lesson.run('lesson = stack.lesson("a wrong name")\n{}["x"]').error[-1]
    assert AGAIN not in lesson.run('lesson = stack.lesson("kernel")\nstack.backfill("user-1-notifications")').error[-1]


def test_a_lesson_that_begins_again_forgets_which_cells_ran(lesson: Kernel) -> None:
    for _ in range(2):
        lesson.run("ada = lesson.inbox('ada')")
    for cell in ('lesson = stack.lesson("kernel")', "ada = lesson.inbox('ada')"):
        assert not lesson.run(cell).error
    assert AGAIN not in "".join(lesson.run("{}['x']").error)


# --- Stop --------------------------------------------------------------------------------------------------------------------

SUBSCRIBED = 'lesson.subscribe("ada", url=lesson.inbox("ada").url)\n'
FAILING = f'lesson.inbox("ada").respond(status=500)\n{SUBSCRIBED}lesson.insert("ada", "x")\n'
BEGINS = 'print("begins")\n'
PAUSED = f"{SUBSCRIBED}stack.subscriptions.pause(lesson.subscriptions()[0].sink_name)\n"

STOPPED = ["KeyboardInterrupt: Stopped.", "Run the cell again, or run the lesson from its first cell to start over."]
LONG = {
    "generate": f"{BEGINS}lesson.generate(rate=100, seconds=60)",
    "wait_for": f'{BEGINS}lesson.inbox("ada").wait_for(10_000, timeout=60)',
    "backfill": f'{PAUSED}lesson.insert("ada", "x")\nhandle = lesson.backfill("ada")\n{BEGINS}handle.wait(timeout=60)',
    "ledger": f"{FAILING}{BEGINS}lesson.ledger(wait=60)",
    "ledger by the WAL": f"ledger = lesson.ledger(wal=True, wait=60)\n{FAILING}{BEGINS}ledger.close()",
    "panel": f"panel = widgets.GeneratePanel(lesson); panel.seconds.value = 60\n{BEGINS}panel.button.click()",
    "inbox": f'{BEGINS}for message in lesson.inbox("ada"): pass',
}


@pytest.mark.parametrize("code", LONG.values(), ids=LONG)
def test_stop_ends_a_long_cell_at_once_and_the_lesson_can_begin_again(lesson: Kernel, code: str) -> None:
    stopped = lesson.stop(code)
    assert stopped.seconds < 1.0
    assert stopped.error in ([], STOPPED)
    again = lesson.run(f'lesson = stack.lesson("kernel")\n{SUBSCRIBED}lesson.insert("ada", "Again")')
    assert not again.error
    assert lesson.run('print(lesson.inbox("ada").wait_for(1)[0].record["message"], lesson.ledger().ok)').text == "Again True\n"


def test_stop_in_other_code_keeps_its_traceback(lesson: Kernel) -> None:
    stopped = lesson.stop(f"{BEGINS}while True: pass")
    assert len(stopped.error) > 2
