"""Torture tests of the local engine: real processes that are killed, receivers that fail, hang, or drip, and hours of load.

What is delivered is compared with what was committed. `python -m tests.torture` runs the full tests, and
`tests/engine/test_torture_short.py` the short ones.
"""
