"""All lessons on the embedded stack, in a random order, on homes in which each of them was cut short before."""

from __future__ import annotations

from tests.notebooks import strictly


def test_every_lesson_shows_what_is_stored_whatever_was_cut_short_before() -> None:
    assert strictly.main([]) == 0  # it prints its seed and what differs
