"""Plots: their content, their text, and that they leave nothing behind."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread as read_png

from userhooks import plots
from userhooks.ledger import Entry, Ledger
from userhooks.ledger.report import State
from userhooks.plots import ledger_plots

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
PLOTS = [plots.delivery_rate, plots.latency_over_time, plots.latency_distribution, plots.backlog]


def row(number: int, seconds: float, latency_ms: float | None, **fields: Any) -> Entry:
    committed = START + timedelta(seconds=seconds)
    received = None if latency_ms is None else committed + timedelta(milliseconds=latency_ms)
    state: State = "lost" if latency_ms is None else "received"
    return Entry(number, 1, "user-1-notifications", False, state, committed, received, latency_ms)._replace(**fields)


def frame(entries: Sequence[Entry]) -> pd.DataFrame:
    return Ledger(len(entries), entries, (), (), (), ()).frame()


STEADY = [row(number, number / 100, 1 + number % 4) for number in range(500)]


def drawn(plot: Callable[[pd.DataFrame, Axes], Axes], entries: Sequence[Entry]) -> Axes:
    ax = Figure().add_subplot()
    assert plot(frame(entries), ax) is ax
    ax.figure.canvas.draw()
    return ax


def line(ax: Axes, label: str) -> tuple[list[float], list[float]]:
    (found,) = (one for one in ax.get_lines() if str(one.get_label()).startswith(label))
    return list(np.asarray(found.get_xdata())), list(np.asarray(found.get_ydata()))


# --- what they show --------------------------------------------------------------------------------------------------------


def test_a_gauge_that_was_watched_has_a_line_for_each_column_from_the_first_look_on() -> None:
    samples = pd.DataFrame({"ada": [0, 1, 0], "ben": [0, 7, 2]}, index=[100.0, 100.5, 101.0])
    ax = plots.watched(samples, Figure().add_subplot())
    assert line(ax, "ada") == ([0, 0.5, 1], [0, 1, 0])
    assert line(ax, "ben") == ([0, 0.5, 1], [0, 7, 2])
    assert len({one.get_linestyle() for one in ax.get_lines()}) == 2
    assert ax.get_title() == "At most 7 waiting for ben, 2 at the end"
    for nothing in (samples * 0, pd.DataFrame({"ada": []}), pd.DataFrame()):
        assert plots.watched(nothing, Figure().add_subplot()).get_title() == "Nobody waits"


def test_the_rate_counts_rows_per_second_on_both_sides() -> None:
    ax = drawn(plots.delivery_rate, [*STEADY, row(500, 2.5, 3, state="not owed"), row(501, 2.5, None, backfill=True)])
    assert line(ax, "generated") == ([0.5, 1.5, 2.5, 3.5, 4.5], [100] * 5)
    assert sum(line(ax, "delivered")[1]) == 500
    assert ax.get_title() == "500 rows delivered as fast as they were generated"


def test_the_rate_says_when_delivery_ended_later_and_when_rows_are_missing() -> None:
    assert (
        drawn(plots.delivery_rate, [row(1, 0, 1), row(2, 1, 7_000)]).get_title()
        == "2 rows delivered, the slowest 7 s after it was generated"
    )
    assert drawn(plots.delivery_rate, [*STEADY, row(500, 5, None)]).get_title() == "1 row of 501 not delivered"
    waiting = row(500, 5, None)._replace(state="not yet arrived")
    assert drawn(plots.delivery_rate, [*STEADY, waiting]).get_title() == "1 row of 501 not delivered"


def test_latency_has_a_point_for_each_row_and_lines_at_median_and_p99() -> None:
    ax = drawn(plots.latency_over_time, [row(number, number, number) for number in range(1, 101)])
    assert line(ax, "one row") == ([float(number) for number in range(100)], [float(number) for number in range(1, 101)])
    assert [line(ax, label)[1][0] for label in ("50 %", "99 %")] == [50, 99]
    assert ax.get_title() == "Half the rows arrived within 50 ms, 99 % within 99 ms"
    assert ax.get_yscale() == "linear"


def test_latency_is_logarithmic_when_a_few_rows_took_far_longer() -> None:
    assert drawn(plots.latency_over_time, [*STEADY, row(500, 5, 30_000)]).get_yscale() == "log"


def test_the_distribution_reaches_a_hundred_percent_at_the_slowest_row() -> None:
    ax = drawn(plots.latency_distribution, [row(number, number, 10 * number) for number in range(1, 101)])
    times, share = line(ax, "rows")
    assert (times[0], share[0], times[-1], share[-1]) == (10, 1, 1000, 100)
    assert line(ax, "99 %") == ([990.0], [99.0])
    assert ax.get_xscale() == "log"


def test_a_clock_that_runs_behind_does_not_break_the_axes() -> None:
    behind = [row(1, 0, -2.0), row(2, 1, 5.0)]
    assert drawn(plots.latency_distribution, behind).get_xscale() == "linear"
    assert drawn(plots.latency_over_time, behind).get_ylim()[0] == -2


def test_the_backlog_rises_with_commits_and_falls_with_receipts() -> None:
    ax = drawn(plots.backlog, [row(1, 0, 3_000), row(2, 1, 1_000), row(3, 2, 2_000)])
    assert line(ax, "waiting") == ([0, 1, 2, 2, 3, 4], [1, 2, 3, 2, 1, 0])
    assert line(ax, "most") == ([2.0], [3.0])
    assert line(ax, "caught up 2.0 s later") == ([4.0], [0])
    assert ax.get_title() == "At most 3 rows waiting, none 2.0 s later"
    assert drawn(plots.backlog, STEADY).get_title() == "At most 1 row waiting, none at the end"
    assert drawn(plots.backlog, [row(1, 0, 5), row(2, 1, None)]).get_title() == "1 row still waiting at the end"


def test_without_rows_each_plot_says_so_and_stands() -> None:
    titles = [drawn(plot, []).get_title() for plot in PLOTS]
    assert titles == ["No row was owed to anybody", "No row arrived", "No row arrived", "No row was owed to anybody"]
    assert [drawn(plot, [row(1, 0, None)]).get_title() for plot in PLOTS] == [
        "1 row of 1 not delivered", "No row arrived", "No row arrived", "1 row still waiting at the end",
    ]  # fmt: skip


# --- how they look ---------------------------------------------------------------------------------------------------------


def every_plot() -> dict[str, Axes]:
    """Return the axes of each plot, by the name of its function."""
    axes = {plot.__name__: drawn(plot, STEADY) for plot in PLOTS}
    arrived = messages(("a", 0), ("b", 0.5), ("a", 1)).assign(action=["read", "insert", "insert"])
    more: dict[str, Callable[[Axes], Axes]] = {
        "arrivals": lambda ax: plots.arrivals(arrived, ax),
        "retries": lambda ax: plots.retries(arrived, ax),
        "rates": lambda ax: plots.rates(FAILING, MARKS, ax),
        "waiting": lambda ax: plots.waiting(FAILING, MARKS, ax),
    }
    return axes | {name: plot(Figure().add_subplot()) for name, plot in more.items()}


EVERY_PLOT = [*(plot.__name__ for plot in PLOTS), "arrivals", "retries", "rates", "waiting"]


@pytest.mark.parametrize("name", EVERY_PLOT)
def test_axes_have_words_with_units_and_a_legend(name: str) -> None:
    ax = every_plot()[name]
    units = ("second", "ms", "%", "rows", "messages", "attempt")
    assert any(unit in ax.get_xlabel() for unit in units)
    assert any(unit in ax.get_ylabel() for unit in units)
    assert ax.get_title()
    assert ax.get_legend() is not None


@pytest.mark.parametrize("name", EVERY_PLOT)
def test_lines_differ_without_colour_and_backgrounds_are_transparent(name: str) -> None:
    ax = every_plot()[name]
    looks = [(one.get_linestyle(), one.get_marker()) for one in ax.get_lines()]
    assert len(set(looks)) == len(looks)
    assert ax.patch.get_alpha() == 0
    assert ax.figure.patch.get_alpha() == 0


# --- what follows as it happens, retries, many users -----------------------------------------------------------------------


def pulse(*lines: tuple[int, str, int, int, int, int]) -> pd.DataFrame:
    table = pd.DataFrame(lines, columns=["second", "user", "generated", "delivered", "refused", "waiting"])
    table["second"] = pd.to_datetime([START + timedelta(seconds=second) for second in table["second"]], utc=True)
    return table


FAILING = pulse((0, "ada", 10, 10, 0, 0), (0, "ben", 10, 10, 0, 0), (1, "ada", 10, 4, 6, 6), (1, "ben", 10, 10, 0, 0))
MARKS = [(START + timedelta(seconds=0.5), "Ada: 50 % answered 500")]


def test_the_live_picture_counts_all_users_and_marks_what_was_changed() -> None:
    ax = plots.rates(FAILING, MARKS, Figure().add_subplot())
    assert line(ax, "written") == ([0.5, 1.5], [20, 20])
    assert line(ax, "delivered") == ([0.5, 1.5], [20, 14])
    assert line(ax, "refused") == ([0.5, 1.5], [0, 6])
    assert line(ax, "1: Ada: 50 % answered 500")[0] == [0.5, 0.5]
    assert ax.get_title() == "40 rows written, 34 deliveries, 6 attempts refused or unanswered"


def test_the_live_picture_names_who_waits() -> None:
    ax = plots.waiting(FAILING, MARKS, Figure().add_subplot())
    assert line(ax, "ada") == ([1, 2], [0, 6])
    assert ax.get_title() == "6 rows of ada wait"
    assert plots.waiting(FAILING[:2], (), Figure().add_subplot()).get_title() == "Nobody waits"


def test_the_live_picture_is_a_png_without_a_background_also_before_anything_happened() -> None:
    for table in (FAILING, FAILING[:0]):
        picture = plots.pulse_picture(table, MARKS)
        assert picture.startswith(b"\x89PNG")
        pixels = read_png(io.BytesIO(picture))
        assert {pixels[0, 0, 3], pixels[-1, -1, 3]} == {0}


def test_the_live_picture_has_rates_for_each_user(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    real = plots.rates
    monkeypatch.setattr(ledger_plots, "rates", lambda frame, marks, ax: drawn.extend(frame["user"].unique()) or real(frame, marks, ax))
    plots.pulse_picture(FAILING, MARKS)
    assert drawn == ["ada", "ben"]


def test_of_many_marks_the_legend_names_the_newest() -> None:
    marks = [(START + timedelta(seconds=n / 10), f"mark {n}") for n in range(20)]
    ax = plots.rates(FAILING, marks, Figure().add_subplot())
    assert [text.get_text() for text in ax.get_legend().get_texts()][3:] == [f"{n + 1}: mark {n}" for n in range(14, 20)]
    assert sum(one.get_linewidth() == 0.8 for one in ax.get_lines()) == 20


def messages(*tries: tuple[str, float]) -> pd.DataFrame:
    received = pd.to_datetime([START + timedelta(seconds=after) for _, after in tries], utc=True)
    keys = [key for key, _ in tries]
    return pd.DataFrame({"seq": range(len(tries)), "received_at": received, "idempotency_key": keys}).astype({"idempotency_key": "str"})


def test_retries_are_drawn_beside_their_schedule() -> None:
    ax = plots.retries(messages(("a", 0), ("b", 0.5), ("a", 1), ("a", 3.1), ("c", 4)), Figure().add_subplot())
    assert line(ax, "an attempt") == ([1, 2, 3], pytest.approx([0, 1, 3.1]))
    assert line(ax, "the schedule") == ([1, 2, 3], [0, 1, 3])
    assert ax.get_title() == "1 message tried again, up to 3 attempts"
    assert plots.retries(messages(("a", 0)), Figure().add_subplot()).get_title() == "No message had to be tried again"
    assert plots.retries(messages(), Figure().add_subplot()).get_title() == "No message had to be tried again"


def test_the_waits_for_answers_are_drawn_for_each_receiver() -> None:
    answers = {"slow": pd.DataFrame({"seconds": [0.05, 0.1, 1.5]}), "quick": pd.DataFrame({"seconds": [0.001]})}
    ax = plots.answer_times(answers, Figure().add_subplot())
    assert line(ax, "slow") == ([1, 2, 3], [50, 100, 1500])
    assert line(ax, "quick") == ([1], [1])
    assert ax.get_title() == "slow: up to 1,500 ms; quick: up to 1.0 ms"
    assert plots.answer_times({}, Figure().add_subplot()).get_title() == "Nothing was answered"


def test_a_heat_map_has_a_line_for_each_user_and_bands_for_ten_thousand() -> None:
    few = drawn(plots.by_user, [row(n, n, 2 if n % 2 else 200, user_id=1 + n % 2) for n in range(10)])
    assert few.get_title() == "2 users: medians 2.0 ms to 200 ms, slowest second 200 ms"
    assert [label.get_text() for label in few.get_yticklabels()] == ["user 1", "user 2"]
    assert np.asarray(few.images[0].get_array()).shape == (2, 10)
    many = drawn(plots.by_user, [row(n, n % 5, 3, user_id=n) for n in range(10_000)])
    assert np.asarray(many.images[0].get_array()).shape == (200, 5)
    assert drawn(plots.by_user, [row(1, 0, None)]).get_title() == "No row arrived"


def luminance(colour: str) -> float:
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), to_rgb(colour), strict=True)
    )


@pytest.mark.parametrize(("colour", "contrast"), [(plots.INK, 4.0), (plots.GENERATED, 3.0), (plots.DELIVERED, 3.0), (plots.MARK, 3.0)])
def test_colours_stand_out_on_a_light_and_on_a_dark_page(colour: str, contrast: float) -> None:
    """The contrast ratio is that of WCAG 2.2, on white and on JupyterLab's dark page (#111111)."""
    light, dark = 1.05 / (luminance(colour) + 0.05), (luminance(colour) + 0.05) / (luminance("#111111") + 0.05)
    assert min(light, dark) >= contrast


def test_no_figure_and_no_setting_is_left_behind() -> None:
    before = dict(mpl.rcParams)
    for plot in PLOTS:
        drawn(plot, STEADY)
    assert dict(mpl.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_hundred_thousand_rows_are_drawn_from_arrays() -> None:
    many = [row(number, number / 10_000, 2.0) for number in range(100_000)]
    assert sum(line(drawn(plots.delivery_rate, many), "delivered")[1]) == 100_000
