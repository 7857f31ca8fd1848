"""The ledger: compares committed changes with received webhooks.

`arrivals.py` sorts the received messages. `rows.py` compares them with the rows of the table, and `changes.py` with the changes in the WAL.
`report.py` presents the result. `recorder.py` is a separate program that writes WAL changes to a file; `recording.py` runs it, and `wal.py`
decodes the file.
"""

from userhooks.ledger.arrivals import Receipt
from userhooks.ledger.report import Entry, Ledger
from userhooks.ledger.rows import BackfillRead, OwedSubscription, Row

__all__ = ["BackfillRead", "Entry", "Ledger", "OwedSubscription", "Receipt", "Row"]
