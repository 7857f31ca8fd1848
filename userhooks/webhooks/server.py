"""The HTTP server on port 3333, where the app's users subscribe: paths, fields, and statuses. `subscriptions.py` does the work.

**In a real app, take the user from the login session, never from the request body.** This tutorial accepts `userId` in the body so that
a single curl command is enough. As a result, anybody can subscribe to anybody's rows.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, WithJsonSchema
from starlette.exceptions import HTTPException

from userhooks.errors import DatabaseUnavailable, DatabaseUnsuitable, Forbidden, InvalidInput, NotFound, SequinError, UserhooksError
from userhooks.shared import child_process
from userhooks.web.host_guard import App, HostGuard
from userhooks.webhooks.database import Database
from userhooks.webhooks.sequin_client import SequinClient
from userhooks.webhooks.subscriptions import BackfillHandle, Subscription, Subscriptions

_STATUSES: tuple[tuple[type[UserhooksError], int], ...] = (
    (InvalidInput, 400),
    (Forbidden, 403),
    (NotFound, 404),
    (SequinError, 502),
    (DatabaseUnavailable, 503),
    (DatabaseUnsuitable, 503),
)

# subscriptions.py validates the values, so that the server, the commands, and the widgets report the same errors.
_Integer = Annotated[Any, WithJsonSchema({"type": "integer", "minimum": 1})]
_String = Annotated[Any, WithJsonSchema({"type": "string"})]


class _Subscribe(BaseModel):
    userId: _Integer  # noqa: N815 - the seed's field names
    webhookUrl: _String  # noqa: N815


class _Backfill(BaseModel):
    sinkName: _String  # noqa: N815
    userId: _Integer = None  # noqa: N815


class _Change(BaseModel):
    status: Annotated[Any, WithJsonSchema({"type": "string", "enum": ["active", "paused"]})]


class _Error(BaseModel):
    error: str


_EXAMPLES = {
    "/subscribe": '{"userId": 1, "webhookUrl": "https://example.com/hooks/1"}',
    "/backfill": '{"sinkName": "user-1-notifications"}',
    "/subscriptions/{sink_name}": '{"status": "paused"}',
}


def build_app(subscriptions: Subscriptions, origin: str) -> App:
    """Return the ASGI app; `origin` is the address it is served at, such as `http://127.0.0.1:3333`."""
    api = FastAPI(title="userhooks", description=__doc__ or "", docs_url=None, redoc_url=None, responses={"default": {"model": _Error}})
    _add_error_handlers(api)

    @api.post("/subscribe")
    def subscribe(body: _Subscribe) -> dict[str, Any]:
        """Send the user's rows to the URL from now on. The secret, a Bearer token sent with each webhook, is shown only once."""
        made = subscriptions.subscribe(body.userId, body.webhookUrl)
        message = "Webhook subscription created" if made.created else "Webhook subscription exists already"
        secret = {"secret": made.secret} if made.created else {}
        return {
            "message": message,
            "sinkId": made.sink_id,
            "sinkName": made.sink_name,
            "userId": made.user_id,
            "webhookUrl": made.url,
            **secret,
        }

    @api.post("/backfill")
    def backfill(body: _Backfill) -> dict[str, Any]:
        """Send all existing rows of the sink's user. With `userId`, refuse unless the sink belongs to that user."""
        started = subscriptions.backfill(body.sinkName, body.userId)
        return {"message": "Backfill started", "backfillId": started.id, "state": started.state}

    @api.get("/subscriptions")
    def list_subscriptions(userId: _Integer = None) -> list[dict[str, Any]]:  # noqa: N803
        """List all subscriptions, or one user's."""
        return [_subscription(subscription) for subscription in subscriptions.list(_number(userId))]

    @api.get("/subscriptions/{sink_name}")
    def get_subscription(sink_name: str) -> dict[str, Any]:
        """Show one subscription."""
        return _subscription(subscriptions.get(sink_name))

    @api.patch("/subscriptions/{sink_name}")
    def change_subscription(sink_name: str, body: _Change) -> dict[str, Any]:
        """Pause or resume a subscription."""
        if body.status == "paused":
            return _subscription(subscriptions.pause(sink_name))
        if body.status == "active":
            return _subscription(subscriptions.resume(sink_name))
        raise InvalidInput("status", 'status must be "active" or "paused".', 'Send JSON like {"status": "paused"}')

    @api.delete("/subscriptions/{sink_name}")
    def unsubscribe(sink_name: str) -> dict[str, Any]:
        """Remove a subscription, its sink, and its HTTP endpoint."""
        subscriptions.unsubscribe(sink_name)
        return {"message": "Webhook subscription removed", "sinkName": sink_name}

    @api.get("/backfills/{sink_name}/{backfill_id}")
    def get_backfill(sink_name: str, backfill_id: str) -> dict[str, Any]:
        """Show a backfill's state and counters; the counters include all users' rows."""
        return _backfill(subscriptions.find_backfill(sink_name, backfill_id))

    @api.get("/health")
    def health() -> dict[str, Any]:
        """Say that the server itself is up."""
        return {"ok": True}

    for path in api.openapi()["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's default; this server answers 400, and all errors have the same shape.
    return HostGuard(api, [origin], json_paths=("/",))


def _subscription(subscription: Subscription) -> dict[str, Any]:
    return {
        "sinkId": subscription.sink_id,
        "sinkName": subscription.sink_name,
        "userId": subscription.user_id,
        "webhookUrl": subscription.url,
        "status": subscription.status,
    }


def _backfill(handle: BackfillHandle) -> dict[str, Any]:
    return {
        "backfillId": handle.id,
        "sinkName": handle.sink_name,
        "state": handle.state,
        "rowsInitialCount": handle.rows_initial_count,
        "rowsProcessedCount": handle.rows_processed_count,
        "rowsIngestedCount": handle.rows_ingested_count,
    }


def _number(text: str | None) -> Any:
    """Parse a number in a query; return anything else unchanged, for subscriptions.py to refuse."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else text


# --- errors ------------------------------------------------------------------------------------------------------------------


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(UserhooksError)
    def refused(_request: Request, error: UserhooksError) -> JSONResponse:
        status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
        return _error(status, f"{error.what} {error.remedy}".strip())

    @api.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        example = _EXAMPLES.get(request.scope["route"].path, "{}")
        return _error(400, f"{_what_is_wrong(error.errors()[0])} Send JSON like {example}")

    @api.exception_handler(HTTPException)
    def unrouted(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code in (404, 405):
            return _error(
                error.status_code, f"There is no {request.method} {request.url.path} here. GET /openapi.json lists what there is."
            )
        return _error(error.status_code, error.detail)

    @api.exception_handler(Exception)
    def failed(_request: Request, _error_: Exception) -> JSONResponse:
        return _error(500, "The server failed. Its log says why.")


def _what_is_wrong(problem: dict[str, Any]) -> str:
    field = problem["loc"][-1]
    match problem["type"]:
        case "json_invalid":
            return "The body is not valid JSON."
        case "missing" if field == "body":
            return "The body is empty."
        case "missing":
            return f"{field} is missing."
    return "The body must be a JSON object."


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status)


def main() -> None:
    """Run the server as a program of the stack; see `shared/child_process.py`."""
    config = child_process.read_config()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    sequin = SequinClient(config["sequin_url"], config["sequin_api_token"], config["sequin_database"])
    subscriptions = Subscriptions(
        Database(config["database_url"]), sequin, bytes.fromhex(config["home_key"]), allow_private=config["allow_private"]
    )
    app = build_app(subscriptions, f"http://127.0.0.1:{config['port']}")
    child_process.serve(app, "127.0.0.1", config["port"], variable="USERHOOKS_SERVER_PORT")


if __name__ == "__main__":
    main()
