"""An engine that never gives up on a receiver that does not respond, however slow the machine is.

Tests that hold a receiver's responses use it to keep pending messages in memory and a backfill active. Started like the engine, with the
configuration on stdin:

python -m tests.patient_engine
"""

from __future__ import annotations

import math

from userhooks.engine import __main__ as program
from userhooks.engine.delivery import sink_delivery

if __name__ == "__main__":
    sink_delivery.STALLED_SECONDS = math.inf
    program.main()
