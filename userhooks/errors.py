"""The errors that this package raises for users to read.

UserhooksError                    base of the others; a notebook shows two lines: what happened, and what to do
├── ConfigurationError            an environment variable, a port, or the home folder cannot be used
├── NotRunning                    a required part of the stack is not running
├── InvalidInput                  a value from the caller is invalid; has the name of its field
├── NotFound                      a user, subscription, sink, backfill, or inbox does not exist
├── Forbidden                     the resource belongs to another user
├── DatabaseUnavailable           Postgres does not answer
├── DatabaseUnsuitable            Postgres refuses a statement or lacks a requirement
├── DeliveriesMissing             a wait ended before all expected deliveries arrived
└── SequinError                   Sequin's Management API
    ├── SequinUnreachable         nothing answers at its address
    ├── SequinUnauthorized        the API token was refused (401)
    ├── SequinNotFound            the resource does not exist (404)
    ├── SequinInvalid             the request was refused (another 4xx); has `validation_errors`
    ├── SequinFailed              Sequin failed (5xx), timed out, or gave an unusable answer
    └── SequinMismatch            a resource in Sequin is not as requested
"""

from __future__ import annotations

from typing import Any

START = "Start it with Stack.start() in a notebook, with userhooks up --detach in a terminal"
"""Advice for a part of the stack that is not running; each error completes the sentence."""


class UserhooksError(Exception):
    """Base of all errors in this package: `what` says what happened, and `remedy` says what to do."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n{self.remedy}" if self.remedy else self.what

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows instead of a traceback, because a learner needs the remedy, not our call stack."""
        return [f"{type(self).__name__}: {self.what}", *([self.remedy] if self.remedy else [])]


class ConfigurationError(UserhooksError):
    """An environment variable, a port, or the home folder cannot be used."""


class NotRunning(UserhooksError):
    """A required part of the stack is not running."""


class InvalidInput(UserhooksError):
    """A value from the caller is invalid; `field` is its name, as the caller spells it."""

    def __init__(self, field: str, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.field = field


class NotFound(UserhooksError):
    """A user, subscription, sink, backfill, or inbox does not exist."""


class Forbidden(UserhooksError):
    """The resource belongs to another user."""


class DatabaseUnavailable(UserhooksError):
    """Postgres does not answer."""


class DatabaseUnsuitable(UserhooksError):
    """Postgres answers but refuses a statement or lacks a requirement."""


class DeliveriesMissing(UserhooksError):
    """A wait ended before all expected deliveries had arrived."""


class SequinError(UserhooksError):
    """Sequin's Management API refused the request, failed, or did not answer; `status` is the HTTP status, or None."""

    def __init__(self, what: str, remedy: str = "", *, status: int | None = None, validation_errors: dict[str, Any] | None = None) -> None:
        super().__init__(what, remedy)
        self.status = status
        self.validation_errors = validation_errors or {}


class SequinUnreachable(SequinError):
    """Nothing answers at Sequin's address."""


class SequinUnauthorized(SequinError):
    """Sequin refused the API token (401)."""


class SequinNotFound(SequinError):
    """The resource does not exist in Sequin (404)."""


class SequinInvalid(SequinError):
    """Sequin refused the request (a 4xx status other than 401 and 404); see `validation_errors`."""


class SequinFailed(SequinError):
    """Sequin failed (5xx), did not finish in time, or gave an answer that cannot be used."""


class SequinMismatch(SequinError):
    """A sink or function in Sequin is not as requested; the remedy says what became of it or how to repair it."""
