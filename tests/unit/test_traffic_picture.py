"""The fault dial's picture: what it says is true, its peaks are inside, and its flags do not overlap."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest

from userhooks.lessons.traffic_window import SecondCounts, TrafficWindow
from userhooks.widgets import traffic_picture
from userhooks.widgets.traffic_picture import Mark, axis_limit, flags, last_second, picture, sentence

START = 1_000_000


def window(ben: Sequence[SecondCounts] = (), seconds: int = 0) -> TrafficWindow:
    """Return a window that is `seconds` long, or as long as Ben's counts; Ada has no traffic."""
    one = TrafficWindow(["ada", "ben"], START)
    one.add({"ben": dict(enumerate(ben, START))}, START + max(seconds, len(ben)))
    return one


STEADY = [SecondCounts(30, 30, 0, 30)] * 10
OUTAGE = [*STEADY, *[SecondCounts(30, 0, 4, 0)] * 2, SecondCounts(30, 90, 0, 90), *STEADY]


# --- axes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "limit"), [(0, 10), (1, 10), (9, 10), (10, 15), (30, 40), (61, 80), (100, 150), (950, 1500), (10**6, 1.5e6)]
)
def test_axes_end_at_a_round_number_above_every_value_and_never_below_ten(most: int, limit: float) -> None:
    assert axis_limit([0, most]) == limit
    assert axis_limit([]) == 10


def test_every_peak_is_inside_its_chart() -> None:
    heights = [float(y) for y in re.findall(r"[MV](?:[\d.]+,)?([\d.]+)", picture(window([SecondCounts(950, 1, 977, 1)]), ()))]
    assert heights
    assert all(0 < y < 100 for y in heights)


def test_one_users_peak_does_not_flatten_the_charts_of_others() -> None:
    both = TrafficWindow(["ada", "ben"], START)
    both.add({"ada": {START: SecondCounts(30, 30, 0, 30)}, "ben": {START: SecondCounts(900, 900, 0, 900)}}, START + 1)
    assert re.findall(r">([\d,.]+)/s<", picture(both, ())) == ["40", "1,000"]


def test_seconds_without_a_refusal_or_a_waiting_row_have_no_block() -> None:
    charts = picture(window(OUTAGE), ()).partition('class="lane"')[2]
    assert charts.count(f'fill="{traffic_picture.REFUSED}"') == 1
    assert re.findall(rf'<path d="M([\d.]+)[^"]*" fill="{traffic_picture.REFUSED}"', charts) == [f"{100 - 100 * 13 / 60:.2f}"]
    assert traffic_picture.REFUSED not in picture(window(STEADY), ()).partition('class="lane"')[2]


def test_an_idle_chart_says_so_and_has_axes_from_zero_to_ten() -> None:
    idle = picture(window(seconds=60), ())
    assert idle.count("No traffic") == idle.count("<em><b>No rows waiting") == 2
    assert re.findall(r"<span style=\"(?:top|bottom): -2px\">([^<]*)<", idle) == ["10/s", "0", "10", "0"] * 2
    assert "<path d" not in idle.partition('class="lane"')[2]


# --- sentences -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ben", "said"),
    [
        ([], "Waiting for the first second to end."),
        (STEADY[:1], "No rows waiting, now or in the last second."),
        (STEADY, "No rows waiting, now or in the last 10 s."),
        (OUTAGE[:12], "Rows waiting now: 60 for Ben. Most in the last 12 s: 60 for Ben, now."),
        (OUTAGE, "No rows waiting now. Most in the last 23 s: 60 for Ben, 11 s ago."),
        ([*OUTAGE, *STEADY * 10], "No rows waiting, now or in the last 60 s."),
    ],
)
def test_the_sentence_is_true_of_the_window(ben: Sequence[SecondCounts], said: str) -> None:
    assert sentence(window(ben)) == said
    assert said in picture(window(ben), ())


def test_each_user_has_the_figures_of_the_last_second() -> None:
    outage = window(OUTAGE[:11])
    assert last_second(outage, "ben") == "30 written, 0 delivered, 4 failed in the last second; 30 waiting"
    assert last_second(outage, "ada") == "0 written, 0 delivered, 0 failed in the last second; 0 waiting"
    assert last_second(outage, "ben") in picture(outage, ())


# --- marks -----------------------------------------------------------------------------------------------------------------


def edges(label: str, left: float) -> tuple[float, float]:
    """Return the left and right edges of a flag, in percent of the narrowest chart."""
    return left, left + 100 * (7 * len(label) + 10) / 360


@pytest.mark.parametrize("apart", [0.01, 0.5, 1, 2, 3, 5])
def test_flags_do_not_overlap_and_together_name_every_mark(apart: float) -> None:
    marks = [Mark(START + apart * number, f"mark {number}") for number in range(1, 11)]
    found = flags(window(seconds=60), marks)
    placed = [edges(flag.label, flag.left) for flag in found]
    assert all(right <= left for (_, right), (left, _) in pairwise(placed))
    named = [range(int(first), int(last or first) + 1) for first, _, last in (flag.label.partition("–") for flag in found)]
    assert [number for numbers in named for number in numbers] == list(range(1, 11))


def test_ten_presses_in_five_seconds_have_ten_lines_and_are_all_listed() -> None:
    drawn = picture(window(seconds=60), [Mark(START + 20 + number / 2, f"<press {number}>") for number in range(10)])
    flag_row = re.findall(r'<span style="left: [\d.]+%">([\d–]+)<', drawn)
    assert flag_row[0].startswith("1–")
    assert len(set(re.findall(r'<line x1="([\d.]+)" x2="\1"', drawn))) == 10
    assert "<li><b>10</b> &lt;press 9&gt;, 35 s ago</li>" in drawn
    assert drawn.index("&lt;press 9&gt;") < drawn.index("&lt;press 0&gt;")


def test_marks_leave_with_the_window_and_keep_their_numbers() -> None:
    marks = [Mark(START + 1, "first"), Mark(START + 50, "second")]
    later = picture(window(seconds=90), marks)
    assert "first" not in later
    assert "<b>2</b> second, 40 s ago" in later
    assert [flag.label for flag in flags(window(seconds=90), marks)] == ["2"]


def test_a_mark_of_the_current_second_is_at_the_right_edge() -> None:
    assert [flag.left for flag in flags(window(seconds=30), [Mark(START + 30.7, "just now")])] == [100]


def test_of_very_many_marks_the_newest_are_listed() -> None:
    drawn = picture(window(seconds=60), [Mark(START + number, f"mark {number}") for number in range(1, 41)])
    assert len(re.findall(r"<li><b>", drawn)) == traffic_picture.LISTED_MARKS
    assert "mark 40," in drawn
    assert "and 28 before" in drawn


# --- looks -----------------------------------------------------------------------------------------------------------------


def test_text_and_axes_take_the_pages_color() -> None:
    drawn = traffic_picture.STYLE + picture(window(OUTAGE), [Mark(START + 5, "press")])
    fixed = set(re.findall(r"#[0-9a-f]{3,8}\b", drawn))
    assert fixed == {traffic_picture.WRITTEN, traffic_picture.DELIVERED, traffic_picture.REFUSED, traffic_picture.WAITING}
    assert "color: var(--jp-ui-font-color1, inherit)" in drawn


def test_the_picture_stays_small_with_a_full_window() -> None:
    busy = [SecondCounts(30 + number % 7, 28 + number % 5, number % 3, 25) for number in range(60)]
    assert len(picture(window(busy), ())) < 20_000
