"""The errors that this package raises for people to read; how each layer detects them lives elsewhere.

UserhooksError                    everything below; two lines in a notebook: what happened, what to do
├── ConfigurationError            an environment variable, a port or the home folder is not usable as it is
├── NotRunning                    a part of the stack is needed and is not there
├── InvalidInput                  what the caller passed is malformed; carries the name of the field
├── NotFound                      an unknown user, subscription, sink, backfill or inbox
├── Forbidden                     the thing exists and belongs to another user
├── DatabaseUnavailable           Postgres does not answer
├── DatabaseUnsuitable            Postgres answers, and refuses a statement or lacks something that is needed
├── DeliveriesMissing             a wait ended before everything that was waited for had come
└── SequinError                   Sequin's Management API
    ├── SequinUnreachable         nothing answers at that address
    ├── SequinUnauthorized        the API token was refused (401)
    ├── SequinNotFound            404
    ├── SequinInvalid             the request was refused (400, 422); carries `validation_errors`
    ├── SequinFailed              Sequin's own fault (5xx)
    └── SequinMismatch            the answer is not what was asked for, so the resource was removed again
"""

from __future__ import annotations

from typing import Any

START = "Start it with Stack.start() in a notebook, with userhooks up --detach in a terminal"
"""What to do when something of the stack does not run; each error says how it goes on."""


class UserhooksError(Exception):
    """Base of all errors of this package: `what` happened, and the `remedy`, which says what to do or run."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n{self.remedy}" if self.remedy else self.what

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback: a learner needs the remedy, not our call stack."""
        return [f"{type(self).__name__}: {self.what}", *([self.remedy] if self.remedy else [])]


class ConfigurationError(UserhooksError):
    """An environment variable, a port or the home folder is not usable as it is."""


class NotRunning(UserhooksError):
    """A part of the stack is needed and is not running."""


class InvalidInput(UserhooksError):
    """The caller passed a malformed value; `field` names it as the caller spelled it."""

    def __init__(self, field: str, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.field = field


class NotFound(UserhooksError):
    """An unknown user, subscription, sink, backfill or inbox."""


class Forbidden(UserhooksError):
    """The thing exists and belongs to another user."""


class DatabaseUnavailable(UserhooksError):
    """Postgres does not answer."""


class DatabaseUnsuitable(UserhooksError):
    """Postgres answers, and refuses a statement or lacks something that is needed."""


class DeliveriesMissing(UserhooksError):
    """A wait ended before all expected deliveries had arrived."""


class SequinError(UserhooksError):
    """Sequin's Management API refused, failed or did not answer; `status` is the HTTP status, or None."""

    def __init__(self, what: str, remedy: str = "", *, status: int | None = None, validation_errors: dict[str, Any] | None = None) -> None:
        super().__init__(what, remedy)
        self.status = status
        self.validation_errors = validation_errors or {}


class SequinUnreachable(SequinError):
    """Nothing answers at Sequin's address."""


class SequinUnauthorized(SequinError):
    """Sequin refused the API token."""


class SequinNotFound(SequinError):
    """Sequin knows no such resource."""


class SequinInvalid(SequinError):
    """Sequin refused the request as malformed (400 or 422)."""


class SequinFailed(SequinError):
    """Sequin failed by its own fault (5xx)."""


class SequinMismatch(SequinError):
    """Sequin's answer is not what was asked for; the resource was removed again."""
