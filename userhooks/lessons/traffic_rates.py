"""Rows written and received per second for each user of a lesson, read from the database and the inboxes, for a live chart."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from userhooks.shared.extras import lab_extra

if TYPE_CHECKING:
    import pandas as pd

    from userhooks.lessons.lesson import Lesson

LONGEST_SECONDS = 600
"""Seconds for which inboxes keep their rates."""

_WRITTEN = """
SELECT user_id, floor(extract(epoch FROM created_at))::bigint, count(*)
  FROM public.notifications WHERE user_id = ANY(%s) AND created_at >= %s GROUP BY 1, 2
"""


def pulse(lesson: Lesson, since: datetime) -> pd.DataFrame:
    """Return the rows written and received in each second since `since` as a DataFrame, for at most the last ten minutes.

    `since` must be timezone-aware. The frame has one row per user and second, with these columns. Updates, deletes, repeats, and backfills
    do not count as `waiting`.

    - `second` (datetime64[us, UTC]) and `user` (str)
    - `generated`: rows inserted, except those that have been deleted since then
    - `delivered`: requests answered 2xx
    - `refused`: requests answered otherwise, or not at all
    - `waiting`: rows generated since `since` and not delivered by the end of the second
    """
    with lab_extra():
        import pandas as pd

    with lesson.clients.database.connect() as connection:
        written = {(user, second): count for user, second, count in connection.execute(_WRITTEN, [list(lesson.users.values()), since])}
    rows = []
    for user, user_id in lesson.users.items():
        waiting = 0
        inbox = lesson.inbox(user)
        for rates in lesson.clients.inspector.call("GET", f"/api/inboxes/{inbox.id}/rates?seconds={LONGEST_SECONDS}")["rates"]:
            if rates["second"] < int(since.timestamp()):
                continue
            generated = written.get((user_id, rates["second"]), 0)
            waiting = max(0, waiting + generated - rates["rows"])
            rows.append((rates["second"], user, generated, rates["accepted"], rates["refused"] + rates["unanswered"], waiting))
    frame = pd.DataFrame(rows, columns=["second", "user", "generated", "delivered", "refused", "waiting"])
    frame["second"] = pd.to_datetime(frame["second"], unit="s", utc=True).astype("datetime64[us, UTC]")
    return frame.astype({"user": "str", "generated": "int64", "delivered": "int64", "refused": "int64", "waiting": "int64"})
