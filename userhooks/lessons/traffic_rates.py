"""Rows written and received per second for each user of a lesson, read from the database and the inboxes, for a live chart."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from userhooks.lessons.traffic_window import WINDOW_SECONDS, SecondCounts, TrafficWindow
from userhooks.shared.extras import lab_extra

if TYPE_CHECKING:
    import pandas as pd

    from userhooks.lessons.lesson import Lesson

LONGEST_SECONDS = 600
"""Seconds for which inboxes keep their rates."""

_LATE_SECONDS = 2
"""Seconds read in addition to the window: the current one, and one in case the read takes a while."""

_WRITTEN = """
SELECT user_id, floor(extract(epoch FROM created_at))::bigint, count(*)
  FROM public.notifications WHERE user_id = ANY(%s) AND created_at >= %s GROUP BY 1, 2
"""


class TrafficReader:
    """Reads the traffic of a lesson's users since the reader was created, into a window of the last 60 seconds.

    Updates, deletes, repeats, and backfills do not count as waiting rows. Rows that have been deleted do not count as written.
    """

    def __init__(self, lesson: Lesson) -> None:
        self._lesson = lesson
        self._since = datetime.now(UTC)
        self._read_at = time.monotonic()
        self.window = TrafficWindow(lesson.users, int(self._since.timestamp()))

    def read(self) -> TrafficWindow:
        """Read what is new, and return the window. Raises NotRunning or DatabaseUnavailable."""
        started = time.monotonic()
        # After a pause, such as an outage, everything since the last read is missing.
        missing = min(LONGEST_SECONDS, WINDOW_SECONDS + _LATE_SECONDS + int(started - self._read_at))
        inboxes = {user: self._lesson.inbox(user).id for user in self._lesson.users}
        call = self._lesson.clients.inspector.call
        rates = {user: call("GET", f"/api/inboxes/{inbox}/rates?seconds={missing}")["rates"] for user, inbox in inboxes.items()}
        current = min(seconds[-1]["second"] for seconds in rates.values())
        since = max(self._since, datetime.fromtimestamp(current - missing + 1, UTC))
        with self._lesson.clients.database.connect() as connection:
            rows = connection.execute(_WRITTEN, [list(self._lesson.users.values()), since])
            written = {(user_id, second): count for user_id, second, count in rows}
        counts = {
            user: {
                entry["second"]: SecondCounts(
                    written.get((user_id, entry["second"]), 0), entry["accepted"], entry["refused"] + entry["unanswered"], entry["rows"]
                )
                for entry in rates[user]
            }
            for user, user_id in self._lesson.users.items()
        }
        self.window.add(counts, end=current)
        self._read_at = started
        return self.window


def traffic_frame(window: TrafficWindow) -> pd.DataFrame:
    """Return the seconds of a window as a DataFrame, with one row per second and user, and these columns.

    - `second` (datetime64[us, UTC]) and `user` (str)
    - `generated`: rows inserted
    - `delivered`: requests answered 2xx
    - `refused`: requests answered otherwise, or not at all
    - `waiting`: rows not delivered by the end of the second
    """
    with lab_extra():
        import pandas as pd

    rows = [(user, *second) for user in window.users for second in window.seconds(user)]
    frame = pd.DataFrame(rows, columns=["user", "second", "generated", "delivered", "refused", "waiting"])
    frame["second"] = pd.to_datetime(frame["second"], unit="s", utc=True).astype("datetime64[us, UTC]")
    return frame.astype({"user": "str", "generated": "int64", "delivered": "int64", "refused": "int64", "waiting": "int64"})
