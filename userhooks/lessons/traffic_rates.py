"""What a lesson's users write and receive per second, read from the database and the inboxes, for a live chart."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from userhooks.shared.extras import lab_extra

if TYPE_CHECKING:
    import pandas as pd

    from userhooks.lessons.lesson import Lesson

LONGEST_SECONDS = 600
"""Inboxes remember no more."""

_WRITTEN = """
SELECT user_id, floor(extract(epoch FROM created_at))::bigint, count(*)
  FROM public.notifications WHERE user_id = ANY(%s) AND created_at >= %s GROUP BY 1, 2
"""


def pulse(lesson: Lesson, since: datetime) -> pd.DataFrame:
    """Count what was written and received in each second from `since` (aware) on, at most the newest ten minutes.

    Columns, one row for each user and second: `second` (datetime64[us, UTC]), `user` (str), `generated` (rows inserted, those left aside
    that were deleted since), `delivered` (requests answered 2xx), `refused` (those answered otherwise, or not), `waiting` (rows generated
    and not delivered from the first second to the end of this one; updates, deletes, repeats and backfills are none of them).
    """
    with lab_extra():
        import pandas as pd

    with lesson.clients.database.connect() as connection:
        written = {(user, second): count for user, second, count in connection.execute(_WRITTEN, [list(lesson.users.values()), since])}
    rows = []
    for user, number in lesson.users.items():
        waiting = 0
        inbox = lesson.inbox(user)
        for second in lesson.clients.inspector.call("GET", f"/api/inboxes/{inbox.id}/rates?seconds={LONGEST_SECONDS}")["rates"]:
            if second["second"] < int(since.timestamp()):
                continue
            generated = written.get((number, second["second"]), 0)
            waiting = max(0, waiting + generated - second["rows"])
            rows.append((second["second"], user, generated, second["accepted"], second["refused"] + second["unanswered"], waiting))
    frame = pd.DataFrame(rows, columns=["second", "user", "generated", "delivered", "refused", "waiting"])
    frame["second"] = pd.to_datetime(frame["second"], unit="s", utc=True).astype("datetime64[us, UTC]")
    return frame.astype({"user": "str", "generated": "int64", "delivered": "int64", "refused": "int64", "waiting": "int64"})
