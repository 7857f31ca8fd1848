"""Error responses of the Management API, with the statuses and bodies recorded from Sequin 0.14.6. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLANK = "can't be blank"


class ApiError(Exception):
    """An error response to a request: an HTTP status and a JSON body."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body


def bad_request() -> ApiError:
    """Return the 400 for a value that Sequin cannot use in a database query."""
    return ApiError(400, {"errors": {"detail": "Bad Request"}})


def refused(summary: str) -> ApiError:
    """Return the 422 of the parser stage, which stops at the first error."""
    return ApiError(422, {"summary": summary, "validation_errors": {}, "code": None})


def not_found(entity: str) -> ApiError:
    """Return the 404 for an entity that does not exist."""
    return ApiError(404, {"summary": f"Not found: No `{entity}` found matching the provided ID or name"})


def invalid(errors: Mapping[str, Any]) -> ApiError:
    """Return the 422 of the validation stage, with error messages by field."""
    return ApiError(422, {"summary": "Validation failed", "validation_errors": dict(errors)})
