"""Torture of the local engine: real processes killed, receivers that fail, hang or drip, hours of load, held against what was committed.

`python -m tests.torture` runs the full forms; `tests/engine/test_torture_short.py` the short ones.
"""
