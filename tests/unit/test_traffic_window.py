"""The window of the fault dial: it slides, corrects earlier seconds, and never forgets a row that waits."""

from __future__ import annotations

from userhooks.lessons.traffic_rates import traffic_frame
from userhooks.lessons.traffic_window import SecondCounts, TrafficWindow


def test_before_the_first_full_second_there_is_nothing_to_show() -> None:
    window = TrafficWindow(["ada"], start=1000)
    assert (window.length, window.seconds("ada")) == (0, [])
    window.add({"ada": {1000: SecondCounts(5)}}, end=1000)
    assert (window.length, window.seconds("ada")) == (0, [])


def test_every_second_since_the_start_is_shown_also_those_without_traffic() -> None:
    window = TrafficWindow(["ada"], start=1000)
    window.add({"ada": {1001: SecondCounts(10, 7, 3, 7)}}, end=1003)
    assert window.seconds("ada") == [(1000, 0, 0, 0, 0), (1001, 10, 7, 3, 3), (1002, 0, 0, 0, 3)]


def test_the_window_never_holds_more_than_the_last_sixty_seconds() -> None:
    window = TrafficWindow(["ada"], start=1000)
    for end in range(1001, 1400):
        window.add({"ada": {end - 1: SecondCounts(1, 1, 0, 1)}}, end=end)
        assert len(window.seconds("ada")) == window.length == min(60, end - 1000)
    assert [window.seconds("ada")[place].second for place in (0, -1)] == [1339, 1398]


def test_rows_still_count_as_waiting_long_after_their_second_has_left_the_window() -> None:
    window = TrafficWindow(["ada", "ben"], start=1000)
    window.add({"ben": {1000: SecondCounts(generated=40, refused=40)}}, end=1001)
    for end in range(1002, 1900):
        window.add({}, end=end)
    assert {second.waiting for second in window.seconds("ben")} == {40}
    assert {second.waiting for second in window.seconds("ada")} == {0}
    window.add({"ben": {1900: SecondCounts(delivered=40, accepted_rows=40)}}, end=1901)
    assert window.seconds("ben")[-1].waiting == 0


def test_a_second_that_has_left_the_window_is_not_counted_twice() -> None:
    window = TrafficWindow(["ada"], start=1000)
    for end in (1001, 1070, 1070, 1071):
        window.add({"ada": {1000: SecondCounts(generated=40, refused=40)}}, end=end)
    assert window.seconds("ada")[-1].waiting == 40


def test_an_answer_that_comes_late_corrects_its_second() -> None:
    window = TrafficWindow(["ada"], start=1000)
    window.add({"ada": {1000: SecondCounts(generated=1, refused=1)}}, end=1002)
    assert [second.waiting for second in window.seconds("ada")] == [1, 1]
    window.add({"ada": {1000: SecondCounts(generated=1, delivered=1, accepted_rows=1)}}, end=1002)
    assert [second.waiting for second in window.seconds("ada")] == [0, 0]


def test_traffic_from_before_the_start_does_not_count() -> None:
    window = TrafficWindow(["ada"], start=1000)
    window.add({"ada": {999: SecondCounts(50)}}, end=1001)
    assert window.seconds("ada") == [(1000, 0, 0, 0, 0)]


def test_a_window_is_also_a_table() -> None:
    window = TrafficWindow(["ada", "ben"], start=1000)
    window.add({"ben": {1000: SecondCounts(10, 7, 3, 7)}}, end=1001)
    frame = traffic_frame(window)
    assert frame.query("user == 'ben'").drop(columns="second").to_dict("records") == [
        {"user": "ben", "generated": 10, "delivered": 7, "refused": 3, "waiting": 3}
    ]
    assert str(frame["second"].dtype) == "datetime64[us, UTC]"
