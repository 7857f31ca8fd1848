"""Benchmark: the ledger by the WAL of 100,000 changes, each received once; a script.

    python -m benchmarks.ledger

The yardstick, in the same run, is a dictionary of the receipts by sink and place in the WAL, looked up once for each change.
"""

from __future__ import annotations

import time

from tests.unit.test_ledger import ADA, BEN, CY, owed, sink
from tests.unit.test_ledger_wal import change, sent
from userhooks.ledger.changes import reconcile

CHANGES = 100_000
USERS = (ADA, BEN, CY)


def main() -> None:
    history = []
    for n in range(CHANGES):
        row = n - n % 2
        user = USERS[row % 3]
        history.append(change(n + 1, "update" if n % 2 else "insert", row, user, user if n % 2 else None))
    received = [sent(one, sink(one.user_id or 0), one.user_id or 0) for one in history]
    began = time.perf_counter()
    by_place = {(one.message.sink_id, one.message.lsn, one.message.idx): one for one in received}
    found = sum((sink(one.user_id or 0), one.lsn, one.idx) in by_place for one in history)
    bare = time.perf_counter() - began
    assert found == CHANGES
    began = time.perf_counter()
    ledger = reconcile(history, received, [owed(user) for user in USERS])
    verdict = ledger.verdict()
    judged = time.perf_counter() - began
    frame = ledger.frame()
    framed = time.perf_counter() - began - judged
    print(f"ledger of {CHANGES:,} changes   verdict {judged:.2f} s, frame() of {len(frame):,} lines {framed:.2f} s more: {verdict}")
    print(f"  a dictionary alone        {bare:.2f} s, ratio {judged / bare:.1f}")


if __name__ == "__main__":
    main()
