"""Plots: their content, their text, and that they leave nothing behind."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from userhooks import plots
from userhooks.ledger import Entry, Ledger
from userhooks.ledger.report import State
from userhooks.plots.figure_style import CARD, DELIVERED, GENERATED, INK, MARK, inline_svg

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
    assert ax.get_title() == "At most 7 messages waiting for ben; 2 at the end"
    for nothing in (samples * 0, pd.DataFrame({"ada": []}), pd.DataFrame()):
        assert plots.watched(nothing, Figure().add_subplot()).get_title() == "No messages waiting"


def test_the_rate_counts_rows_per_second_on_both_sides() -> None:
    ax = drawn(plots.delivery_rate, [*STEADY, row(500, 2.5, 3, state="not owed"), row(501, 2.5, None, backfill=True)])
    assert line(ax, "generated") == ([0.5, 1.5, 2.5, 3.5, 4.5], [100] * 5)
    assert sum(line(ax, "delivered")[1]) == 500
    assert ax.get_title() == "500 rows delivered, each within a second"


def test_the_rate_says_when_delivery_ended_later_and_when_rows_are_missing() -> None:
    assert drawn(plots.delivery_rate, [row(1, 0, 1), row(2, 1, 7_000)]).get_title() == "2 rows delivered, the slowest after 7 s"
    assert drawn(plots.delivery_rate, [*STEADY, row(500, 5, None)]).get_title() == "1 of 501 rows not delivered"
    waiting = row(500, 5, None)._replace(state="not yet arrived")
    assert drawn(plots.delivery_rate, [*STEADY, waiting]).get_title() == "1 of 501 rows not delivered"


def test_latency_has_a_point_for_each_row_and_lines_at_median_and_p99() -> None:
    ax = drawn(plots.latency_over_time, [row(number, number, number) for number in range(1, 101)])
    assert line(ax, "one row") == ([float(number) for number in range(100)], [float(number) for number in range(1, 101)])
    assert [line(ax, label)[1][0] for label in ("50%", "99%")] == [50, 99]
    assert ax.get_title() == "Half of the rows arrived within 50 ms, 99% within 99 ms"
    assert ax.get_yscale() == "linear"


def test_latency_is_logarithmic_when_a_few_rows_took_far_longer() -> None:
    assert drawn(plots.latency_over_time, [*STEADY, row(500, 5, 30_000)]).get_yscale() == "log"


def test_the_distribution_reaches_a_hundred_percent_at_the_slowest_row() -> None:
    ax = drawn(plots.latency_distribution, [row(number, number, 10 * number) for number in range(1, 101)])
    times, share = line(ax, "rows")
    assert (times[0], share[0], times[-1], share[-1]) == (10, 1, 1000, 100)
    assert line(ax, "99%") == ([990.0], [99.0])
    assert ax.get_xscale() == "log"


def test_a_clock_that_runs_behind_does_not_break_the_axes() -> None:
    behind = [row(1, 0, -2.0), row(2, 1, 5.0)]
    assert drawn(plots.latency_distribution, behind).get_xscale() == "linear"
    assert drawn(plots.latency_over_time, behind).get_ylim()[0] == -2


def test_the_backlog_rises_with_commits_and_falls_with_receipts() -> None:
    ax = drawn(plots.backlog, [row(1, 0, 3_000), row(2, 1, 1_000), row(3, 2, 2_000)])
    assert line(ax, "waiting") == ([0, 1, 2, 2, 3, 4], [1, 2, 3, 2, 1, 0])
    assert line(ax, "peak: 3 at 2.0 s") == ([2.0], [3.0])
    assert line(ax, "all delivered 2.0 s later") == ([4.0], [0])
    assert ax.get_title() == "At most 3 rows waiting; all delivered 2.0 s later"
    assert drawn(plots.backlog, STEADY).get_title() == "At most 1 row waiting; none at the end"
    assert drawn(plots.backlog, [row(1, 0, 5), row(2, 1, None)]).get_title() == "1 row still waiting at the end"


def test_without_rows_each_plot_says_so_and_stands() -> None:
    titles = [drawn(plot, []).get_title() for plot in PLOTS]
    assert titles == ["No rows were expected", "No rows arrived", "No rows arrived", "No rows were expected"]
    assert [drawn(plot, [row(1, 0, None)]).get_title() for plot in PLOTS] == [
        "1 of 1 row not delivered", "No rows arrived", "No rows arrived", "1 row still waiting at the end",
    ]  # fmt: skip


# --- how they look ---------------------------------------------------------------------------------------------------------


def every_plot() -> dict[str, Axes]:
    """Return the axes of each plot, by the name of its function."""
    axes = {plot.__name__: drawn(plot, STEADY) for plot in PLOTS}
    arrived = messages(("a", 0), ("b", 0.5), ("a", 1)).assign(action=["read", "insert", "insert"])
    more: dict[str, Callable[[Axes], Axes]] = {
        "arrivals": lambda ax: plots.arrivals(arrived, ax),
        "retries": lambda ax: plots.retries(arrived, ax),
    }
    return axes | {name: plot(Figure().add_subplot()) for name, plot in more.items()}


EVERY_PLOT = [*(plot.__name__ for plot in PLOTS), "arrivals", "retries"]


@pytest.mark.parametrize("name", EVERY_PLOT)
def test_axes_have_words_with_units_and_a_legend(name: str) -> None:
    ax = every_plot()[name]
    units = ("second", "ms", "%", "rows", "messages", "attempt")
    assert any(unit in ax.get_xlabel() for unit in units)
    assert any(unit in ax.get_ylabel() for unit in units)
    assert ax.get_title()
    assert ax.get_legend() is not None


@pytest.mark.parametrize("name", EVERY_PLOT)
def test_lines_differ_without_colour(name: str) -> None:
    ax = every_plot()[name]
    looks = [(one.get_linestyle(), one.get_marker()) for one in ax.get_lines()]
    assert len(set(looks)) == len(looks)


def test_a_normal_phase_is_a_low_line_and_a_hill_stands_out() -> None:
    steady = drawn(plots.backlog, STEADY)
    _, waiting = line(steady, "waiting")
    assert len(waiting) <= 201, "a line that rises and falls with every row would be a solid block"
    assert set(waiting) == {0, 1}
    assert steady.get_ylim() == (0, 10)
    assert drawn(plots.latency_over_time, STEADY).get_ylim()[1] == 50, "a few milliseconds lie near the bottom"
    hill = drawn(plots.backlog, [row(number, number / 100, 3000 if number == 250 else 1) for number in range(500)])
    assert max(line(hill, "waiting")[1]) == 2
    assert line(hill, "waiting")[1][-1] == 0


def test_nothing_waits_in_a_pause_between_two_phases() -> None:
    phases = [row(number, number / 100 + (5 if number >= 250 else 0), 12) for number in range(500)]
    times, waiting = map(np.asarray, line(drawn(plots.backlog, phases), "waiting"))
    assert set(waiting[(times > 2.6) & (times < 7.4)]) == {0}
    assert set(waiting[times < 2.4]) == {2}


def test_peaks_are_inside_the_axes() -> None:
    samples = pd.DataFrame({"ada": [0, 977, 0]}, index=[0.0, 1.0, 2.0])
    for ax in (drawn(plots.backlog, [row(n, 0, 5000) for n in range(500)]), plots.watched(samples, Figure().add_subplot())):
        assert ax.get_ylim()[1] > max(np.asarray(ax.get_lines()[0].get_ydata()))


# --- in a notebook ---------------------------------------------------------------------------------------------------------


def test_a_stored_picture_has_its_own_background() -> None:
    """No single text color has enough contrast on a white and on a dark page."""
    ax = drawn(plots.delivery_rate, STEADY)
    assert ax.figure.get_facecolor() == (*to_rgb(CARD), 1)
    assert ratio(INK, CARD) >= 4.5


@pytest.mark.parametrize("name", [*EVERY_PLOT, "by_user", "a diagram"])
def test_in_jupyterlab_a_figure_takes_the_width_and_the_text_color_of_the_page(name: str) -> None:
    if name == "a diagram":
        ax = plots.diagrams.slot(Figure().add_subplot())
    else:
        ax = drawn(plots.by_user, STEADY) if name == "by_user" else every_plot()[name]
    figure = ax.figure
    assert isinstance(figure, Figure)
    svg = inline_svg(figure) or ""
    opening = svg.partition(">")[0]
    assert "width: 100%" in opening
    assert not re.search(r" (width|height)=", opening)
    assert INK not in svg
    assert "fill: currentColor" in svg
    assert f"{ax.get_title()}</text>" in svg
    assert "<metadata" not in svg


def test_a_figure_that_is_not_ours_is_shown_as_ever() -> None:
    assert inline_svg(Figure()) is None


def test_figures_are_shown_by_svg_only_where_a_notebook_server_started_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    formatter = SimpleNamespace(for_type=lambda *given: shown.append(given))
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"text/html": formatter}))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    drawn(plots.delivery_rate, STEADY)
    assert shown == []
    monkeypatch.setenv("JPY_SESSION_NAME", "/lessons/01_first_webhook.ipynb")
    drawn(plots.delivery_rate, STEADY)
    assert shown == [(Figure, inline_svg)]


# --- retries, answers, many users ------------------------------------------------------------------------------------------


def messages(*tries: tuple[str, float]) -> pd.DataFrame:
    received = pd.to_datetime([START + timedelta(seconds=after) for _, after in tries], utc=True)
    keys = [key for key, _ in tries]
    return pd.DataFrame({"seq": range(len(tries)), "received_at": received, "idempotency_key": keys}).astype({"idempotency_key": "str"})


def test_retries_are_drawn_beside_their_schedule() -> None:
    ax = plots.retries(messages(("a", 0), ("b", 0.5), ("a", 1), ("a", 3.1), ("c", 4)), Figure().add_subplot())
    assert line(ax, "attempts") == ([1, 2, 3], pytest.approx([0, 1, 3.1]))
    assert line(ax, "backoff schedule") == ([1, 2, 3], [0, 1, 3])
    assert ax.get_title() == "1 message retried, up to 3 attempts"
    assert plots.retries(messages(("a", 0)), Figure().add_subplot()).get_title() == "No messages were retried"
    assert plots.retries(messages(), Figure().add_subplot()).get_title() == "No messages were retried"


def test_the_waits_for_answers_are_drawn_for_each_receiver() -> None:
    answers = {"slow": pd.DataFrame({"seconds": [0.05, 0.1, 1.5]}), "quick": pd.DataFrame({"seconds": [0.001]})}
    ax = plots.answer_times(answers, Figure().add_subplot())
    assert line(ax, "slow") == ([1, 2, 3], [50, 100, 1500])
    assert line(ax, "quick") == ([1], [1])
    assert ax.get_title() == "slow: up to 1,500 ms; quick: up to 1.0 ms"
    assert plots.answer_times({}, Figure().add_subplot()).get_title() == "No responses"


def test_a_heat_map_has_a_line_for_each_user_and_bands_for_ten_thousand() -> None:
    few = drawn(plots.by_user, [row(n, n, 2 if n % 2 else 200, user_id=1 + n % 2) for n in range(10)])
    assert few.get_title() == "2 users: median latency 2.0 ms to 200 ms; slowest second 200 ms"
    assert [label.get_text() for label in few.get_yticklabels()] == ["user 1", "user 2"]
    assert np.asarray(few.images[0].get_array()).shape == (2, 10)
    many = drawn(plots.by_user, [row(n, n % 5, 3, user_id=n) for n in range(10_000)])
    assert np.asarray(many.images[0].get_array()).shape == (200, 5)
    assert drawn(plots.by_user, [row(1, 0, None)]).get_title() == "No rows arrived"


def test_a_fast_row_is_pale_and_a_slow_one_is_strong() -> None:
    ax = drawn(plots.by_user, [row(n, n, 1 + n % 9, user_id=n % 2) for n in range(10)])
    image = ax.images[0]
    fast, slow = (np.asarray(image.cmap(image.norm(latency)))[3] for latency in (9.0, 1000.0))
    assert fast < 0.25 < 0.9 < slow


def test_the_cost_of_each_size_stands_on_its_bar() -> None:
    points = pd.DataFrame({"users": [10, 10_000], "engine_us": [20.0, 24.0], "webhooks_per_second": [9e3, 8e3]})
    ax = plots.cost_per_change(points, Figure().add_subplot())
    assert [text.get_text() for text in ax.texts] == ["20 µs", "24 µs"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["10", "10,000"]
    assert ax.get_title() == "With 10,000 users, a change costs 1.2 times as much as with 10"
    there = plots.cost_per_change(points.assign(engine_us=np.nan), Figure().add_subplot())
    assert [text.get_text() for text in there.texts] == ["111 µs", "125 µs"]
    assert "webhook" in there.get_title()


def luminance(colour: str) -> float:
    return sum(
        w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
        for w, c in zip((0.2126, 0.7152, 0.0722), to_rgb(colour), strict=True)
    )


def ratio(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2.2."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("colour", [GENERATED, DELIVERED, MARK])
@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_colours_stand_out_on_a_light_and_on_a_dark_page(colour: str, page: str) -> None:
    assert ratio(colour, page) >= 3


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
