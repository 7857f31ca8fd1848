"""Webhook bodies for the tests to send, with the fields recorded from Sequin 0.14.6."""

from __future__ import annotations

from typing import Any

from tests.inspector.program import HOME_KEY
from userhooks.webhooks.subscription_secret import subscription_secret


def message(
    user_id: int = 1, row: int = 10, text: str = "hello", action: str = "insert", annotated: Any = ..., **metadata: Any
) -> dict[str, Any]:
    """Return a message about a row of that user.

    Its idempotency key and LSN depend on `row`, unless `metadata` overrides them. `annotated` is the sink's `user_id` annotation: the same
    user by default, or None for no annotation.
    """
    annotation = user_id if annotated is ... else annotated
    return {
        "record": {"created_at": "2026-11-23T17:45:03.606092Z", "id": row, "message": text, "user_id": user_id},
        "metadata": {
            "consumer": {
                "id": "dae14c53-a03c-4067-b1fd-df7dc8e4d4f9",
                "name": f"user-{user_id}-notifications",
                "annotations": {} if annotation is None else {"user_id": annotation},
            },
            "database": {
                "id": "b08b1ff1-6ac3-4d63-8580-18475785ba97",
                "name": "postgres",
                "hostname": "127.0.0.1",
                "database": "postgres",
                "annotations": {},
            },
            "table_name": "notifications",
            "commit_idx": 0,
            "commit_lsn": 47691256 + row,
            "commit_timestamp": "2026-11-23T17:45:03.606834Z",
            "idempotency_key": f"key-{row}",
            "table_schema": "public",
            "transaction_annotations": None,
            "record_pks": [str(row)],
            "enrichment": None,
            "database_name": "postgres",
            **metadata,
        },
        "action": action,
        "changes": None,
    }


def batch(*messages: dict[str, Any]) -> dict[str, Any]:
    """Return a body as sent by a sink with `batch: true`."""
    return {"data": list(messages)}


def bearer(user_id: int, url: str) -> dict[str, str]:
    """Return the header that this user's subscription to this URL sends."""
    return {"authorization": f"Bearer {subscription_secret(HOME_KEY, user_id, url)}"}
