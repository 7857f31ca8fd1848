"""All lessons on the embedded stack, in a random order, on homes in which each of them was cut short before."""

from __future__ import annotations

import subprocess
import sys


def test_every_lesson_shows_what_is_stored_whatever_was_cut_short_before() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.notebooks.strictly"], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout  # with the seed, and what differs
