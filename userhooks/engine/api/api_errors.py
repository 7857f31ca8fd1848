"""How the Management API refuses a request: status, body and the words that recur, as Sequin 0.14.6 has them (recorded). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLANK = "can't be blank"


class ApiError(Exception):
    """A request that is answered with `status` and `body`."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body


def bad_request() -> ApiError:
    """Return the 400 for a value that Sequin's queries cannot take."""
    return ApiError(400, {"errors": {"detail": "Bad Request"}})


def refused(summary: str) -> ApiError:
    """422 of the parser stage."""
    return ApiError(422, {"summary": summary, "validation_errors": {}, "code": None})


def not_found(entity: str) -> ApiError:
    """404 for a named thing."""
    return ApiError(404, {"summary": f"Not found: No `{entity}` found matching the provided ID or name"})


def invalid(errors: Mapping[str, Any]) -> ApiError:
    """422 of the model stage."""
    return ApiError(422, {"summary": "Validation failed", "validation_errors": dict(errors)})
