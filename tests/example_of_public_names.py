"""A script that uses every public name of the package; mypy checks it, and `tests/unit/test_public_names.py` that it is complete."""

from __future__ import annotations

from userhooks import (
    ConfigurationError,
    DatabaseUnavailable,
    DatabaseUnsuitable,
    DeliveriesMissing,
    Forbidden,
    Inbox,
    InvalidInput,
    Ledger,
    Lesson,
    Message,
    NotFound,
    NotRunning,
    SequinClient,
    SequinError,
    SequinFailed,
    SequinInvalid,
    SequinMismatch,
    SequinNotFound,
    SequinUnauthorized,
    SequinUnreachable,
    Settings,
    Stack,
    StackStatus,
    Subscription,
    UserhooksError,
    diagrams,
)


def deliver_one_row(environment: dict[str, str]) -> str:
    """Start the stack, deliver one row to an inbox, and return the ledger's verdict."""
    settings: Settings = Settings.from_env(environment)
    with Stack.start(settings) as stack:
        lesson: Lesson = stack.lesson("example")
        with lesson:
            inbox: Inbox = lesson.inbox("ada")
            subscription: Subscription = lesson.subscribe("ada", url=inbox.url)
            row: int = lesson.insert("ada", "Hello")
            messages: list[Message] = inbox.wait_for(1)
            assert messages[0].record["id"] == row
            stack.backfill(subscription).wait()
            ledger: Ledger = lesson.ledger()
            return ledger.verdict()


def engine_process(stack: Stack) -> int | None:
    """Return the process id of the local engine while it runs."""
    status: StackStatus = stack.status()
    if status.mode == "embedded" and status.state("sequin") == "running":
        return status.sequin.pid
    return None


def sink_names(url: str, token: str) -> list[str]:
    """List a Sequin server's sinks."""
    with SequinClient(url, token, "postgres") as sequin:
        return [sink.name for sink in sequin.sinks()]


def advice(error: UserhooksError) -> str:
    """Return what to do about an error."""
    match error:
        case InvalidInput():
            return f"Correct {error.field}. {error.remedy}"
        case SequinUnreachable() | SequinUnauthorized() | SequinNotFound() | SequinInvalid() | SequinFailed() | SequinMismatch():
            return f"Sequin answered {error.status}. {error.remedy}"
        case SequinError() | DatabaseUnavailable() | DatabaseUnsuitable() | NotRunning() | ConfigurationError():
            return f"Check the stack. {error.remedy}"
        case NotFound() | Forbidden() | DeliveriesMissing():
            return error.remedy
    return str(error)


def pictures() -> str:
    """Name the module of the diagrams."""
    return diagrams.__name__
