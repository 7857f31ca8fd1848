"""The ledger: what was committed, held against what was received.

`rows.py` judges by the rows of the table, `changes.py` by the WAL; `arrivals.py` sorts what was received, `report.py` tells what was found.
`wal.py` reads what `recorder.py`, a program of its own, wrote down of the WAL; `recording.py` starts and asks that program.
"""

from userhooks.ledger.arrivals import Receipt
from userhooks.ledger.report import Entry, Ledger
from userhooks.ledger.rows import BackfillRead, OwedSubscription, Row

__all__ = ["BackfillRead", "Entry", "Ledger", "OwedSubscription", "Receipt", "Row"]
