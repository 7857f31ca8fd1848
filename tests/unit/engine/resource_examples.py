"""A catalog for tests of the API: one database with the example's tables, two endpoints, and one filter function."""

from __future__ import annotations

from userhooks.engine.resources import Catalog, Column, DatabaseResource, FunctionResource, HttpEndpoint, Table

NOTIFICATIONS = ("public", "notifications")
INT4, INT8, NUMERIC, TEXT, BOOLEAN, TIMESTAMPTZ, JSONB = 23, 20, 1700, 25, 16, 1184, 3802
_COLUMNS = {
    "id": INT8,
    "user_id": INT4,
    "message": TEXT,
    "created_at": TIMESTAMPTZ,
    "amount": NUMERIC,
    "seen": BOOLEAN,
    "more": JSONB,
}


def catalog() -> Catalog:
    """Return a new catalog, since tests add resources to it."""
    database = DatabaseResource("d", "postgres", "127.0.0.1", 5432, "app", "ada", "swordfish99", "s", "slot", "pub")
    tables = {
        NOTIFICATIONS: Table(*NOTIFICATIONS, tuple(Column(name, oid, -1) for name, oid in _COLUMNS.items()), ("id",), "f"),
        ("public", "users"): Table("public", "users", (Column("id", INT8, -1), Column("name", TEXT, -1)), ("id",), "d"),
    }
    endpoints = [HttpEndpoint("e1", "user-1-endpoint", "http", "127.0.0.1", 9000, "/in"), HttpEndpoint("e2", "other", "https", "a.b", 443)]
    function = FunctionResource("f1", "mine", "filter", "def filter(action, record, changes, metadata) do\n  true\nend")
    return Catalog(database, {e.id: e for e in endpoints}, {function.id: function}, tables=tables)
