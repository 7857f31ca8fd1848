"""The ledger, which compares what was committed with what was received.

`rows.py` compares by the rows of the table, and `changes.py` by the WAL. `arrivals.py` sorts the received messages, and `report.py` shows
the result. `recorder.py`, a separate program, records the WAL; `recording.py` starts and queries it, and `wal.py` decodes its output.
"""

from userhooks.ledger.arrivals import Receipt
from userhooks.ledger.report import Entry, Ledger
from userhooks.ledger.rows import BackfillRead, OwedSubscription, Row

__all__ = ["BackfillRead", "Entry", "Ledger", "OwedSubscription", "Receipt", "Row"]
