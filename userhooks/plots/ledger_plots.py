"""Plots of a ledger: each function draws into the given Axes and returns it. The data comes from `Ledger.frame()`.

Nothing here uses pyplot or rcParams; `figure_style.py` defines the look. Lines differ in color and style, so that a figure is readable
without color.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from userhooks.plots.figure_style import DELIVERED, GENERATED, INK, MARK, TEXT_POINTS, dressed
from userhooks.shared.extras import lab_extra

with lab_extra():
    import numpy as np
    import pandas as pd
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = (("-", GENERATED), ("--", DELIVERED), (":", MARK))

_SLOWNESS = LinearSegmentedColormap.from_list("slowness", [(*to_rgb(GENERATED), 0.2), (*to_rgb(GENERATED), 0.6), (*to_rgb(MARK), 1.0)])
"""Color map from a pale tint, for fast rows, to an opaque color, for slow ones; it is readable on light and dark pages."""

_FAST_MS, _SLOW_MS = 10.0, 1_000.0
"""Latencies at the ends of the color map, unless a row was slower."""

_BANDS, _NAMED = 200, 20
_INTERVALS = 200
"""Number of intervals in which the backlog of many rows is drawn."""

_SMALLEST_AXIS, _SMALLEST_MS = 10.0, 50.0
"""Smallest upper ends of axes for counts and for milliseconds, so that normal values look small."""

_AS_GENERATED = 1.0
"""Latency in seconds up to which a title says that the deliveries kept up with the generator."""


def delivery_rate(frame: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the number of rows generated and delivered in each second.

    Backfilled rows, and rows that no sink was expected to send, are left out. `frame` is `Ledger.frame()`. x: seconds
    since the first row was committed; y: rows per second.

        figure, ax = plt.subplots()
        plots.delivery_rate(lesson.ledger().frame(), ax)
    """
    owed = _owed(frame)
    generated, delivered = _seconds(owed, "committed_at"), _seconds(owed, "received_at")
    most = 0.0
    edges = np.arange(0, np.ceil(max([1.0, *generated, *delivered]) + 1e-9) + 1)
    for times, label, colour, style, marker in (
        (generated, "generated", GENERATED, "--", "o"),
        (delivered, "delivered", DELIVERED, "-", "x"),
    ):
        counts, _ = np.histogram(times, edges)
        most = max(most, counts.max())
        ax.plot(edges[:-1] + 0.5, counts, style, marker=marker, markersize=5, color=colour, clip_on=False, label=label)
    ax.set_ylim(0, _above(most))
    return dressed(ax, _how_it_went(owed), "seconds since the first row", "rows per second")


def latency_over_time(frame: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the latency of each row, from commit to receipt, over the time of its commit, with the median and the 99th percentile.

    `frame` is `Ledger.frame()`. x: seconds since the first row was committed; y: milliseconds, on a logarithmic scale if they vary widely.
    """
    received = _timed(frame)
    latencies = received["latency_ms"].to_numpy()
    ax.plot(_seconds(received, "committed_at"), latencies, ".", color=DELIVERED, markersize=4, alpha=0.5, label="one row", rasterized=True)
    if len(latencies):
        for percent, style in ((50, "-"), (99, "--")):
            value = _percentile(latencies, percent)
            ax.axhline(value, color=GENERATED, linestyle=style, label=f"{percent}% within {_ms(value)}")
        if latencies.min() > 0 and latencies.max() > 100 * np.median(latencies):
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter("{x:,g}")
        else:
            ax.set_ylim(min(0.0, float(latencies.min())), _above(float(latencies.max()), _SMALLEST_MS))
    return dressed(ax, _how_fast(latencies), "seconds since the first row", "latency from commit to receipt, ms")


def latency_distribution(frame: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the cumulative distribution of latencies, with the median and the 99th percentile marked.

    `frame` is `Ledger.frame()`. x: milliseconds from commit to receipt, logarithmic; y: percent of the rows that arrived.
    """
    latencies = np.sort(_timed(frame)["latency_ms"].to_numpy())
    if len(latencies):
        share = 100 * np.arange(1, len(latencies) + 1) / len(latencies)
        ax.plot(latencies, share, "-", drawstyle="steps-post", color=DELIVERED, label="rows")
        for percent, marker in ((50, "o"), (99, "s")):
            value = _percentile(latencies, percent)
            ax.plot([value], [percent], marker, color=GENERATED, label=f"{percent}% within {_ms(value)}")
        if latencies[0] > 0:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:,g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(0, 103)
    return dressed(ax, _how_fast(latencies), "latency from commit to receipt, ms", "rows received, %")


def backlog(frame: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the number of rows that were committed but not yet delivered, over time.

    `frame` is `Ledger.frame()`. x: seconds since the first row was committed; y: rows waiting. If there are many rows, the line shows only
    the largest number in each of 200 intervals, and the last number.
    """
    owed = _owed(frame)
    times, waiting = _waiting(owed)
    ax.plot(*_largest_by_interval(times, waiting), "-", drawstyle="steps-post", color=DELIVERED, label="waiting")
    peak = int(waiting.max()) if len(waiting) else 0
    caught_up = 0.0
    if peak:
        where = int(waiting.argmax())
        ax.plot([times[where]], [peak], "v", color=MARK, label=f"peak: {peak:,} at {times[where]:.1f} s")
        caught_up = times[where + int((waiting[where:] == 0).argmax())] - times[where]
        if caught_up > _AS_GENERATED and not waiting[-1]:
            ax.plot([times[where] + caught_up], [0], "o", color=GENERATED, label=f"all delivered {caught_up:.1f} s later")
    left = int(waiting[-1]) if len(waiting) else 0
    if not len(owed):
        title = "No rows were expected"
    elif left:
        title = f"{_rows(left)} still waiting at the end"
    else:
        later = "none at the end" if caught_up <= _AS_GENERATED else f"all delivered {caught_up:.1f} s later"
        title = f"At most {_rows(peak)} waiting; {later}"
    ax.set_ylim(0, _above(peak))
    return dressed(ax, title, "seconds since the first row", "rows waiting")


def arrivals(messages: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the number of messages received so far over time, separately for backfilled rows (`read`) and live changes.

    `messages` is `Inbox.messages()`. x: seconds since the first message; y: messages so far.
    """
    history = messages["action"] == "read"
    for kind, label, colour, style in ((history, "backfill", MARK, "-"), (~history, "live changes", DELIVERED, "--")):
        times = messages.loc[kind, "received_at"].sort_values()
        seconds = (times - messages["received_at"].min()).dt.total_seconds()
        ax.plot(seconds, np.arange(1, len(seconds) + 1), style, drawstyle="steps-post", color=colour, label=label)
    ax.set_ylim(0, _above(max(int(history.sum()), int((~history).sum()))))
    title = f"{int(history.sum()):,} backfilled and {_count(int((~history).sum()), 'live message')}"
    return dressed(ax, title, "seconds since the first message", "messages received")


def answer_times(answers: Mapping[str, pd.DataFrame], ax: Axes) -> Axes:
    """Draw how long senders waited for each response from one or more receivers.

    `answers` maps a name to a frame from `ReceiverServer.answers()`. x: requests in the order of their responses; y: milliseconds.
    """
    styles = ((DELIVERED, "-", "o"), (GENERATED, "--", "s"), (MARK, ":", "^"))
    longest = {}
    for number, (name, frame) in enumerate(answers.items()):
        colour, style, marker = styles[number % len(styles)]
        waits = 1000 * frame["seconds"].to_numpy()
        ax.plot(np.arange(1, len(waits) + 1), waits, style, marker=marker, markersize=4, color=colour, label=name)
        if len(waits):
            longest[name] = _ms(float(waits.max()))
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = "; ".join(f"{name}: up to {value}" for name, value in longest.items())
    return dressed(ax, title or "No responses", "response", "response time, ms")


def watched(samples: pd.DataFrame, ax: Axes) -> Axes:
    """Draw samples of a gauge, with a line for each column, for example the messages waiting for each user.

    `samples` has one row per sample; its index is the time of the sample in seconds. x: seconds since the first sample; y: messages
    waiting.
    """
    for number, name in enumerate(samples):
        style, colour = _STYLES[number % len(_STYLES)]
        ax.plot(samples.index - samples.index.min(), samples[name], style, drawstyle="steps-post", color=colour, label=str(name))
    ax.set_ylim(0, _above(float(np.nanmax(samples.to_numpy(), initial=0))))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if not samples.size or not samples.max().max():
        return dressed(ax, "No messages waiting", "seconds", "messages waiting")
    most = samples.max().idxmax()
    title = f"At most {_count(int(samples[most].max()), 'message')} waiting for {most}; {samples[most].iloc[-1]:,.0f} at the end"
    return dressed(ax, title, "seconds", "messages waiting")


def retries(messages: pd.DataFrame, ax: Axes) -> Axes:
    """Draw when each refused message was retried, next to the schedule of 1, 2, 4, … seconds.

    `messages` is `Inbox.messages()`. x: the attempt; y: seconds since the message's first attempt.
    """
    tries = messages.sort_values("seq").groupby("idempotency_key", sort=False)["received_at"]
    after = (messages.sort_values("seq")["received_at"] - tries.transform("min")).dt.total_seconds()
    number = tries.cumcount() + 1
    again = tries.transform("size") > 1
    ax.plot(number[again], after[again], "x", color=DELIVERED, label="attempts")
    most = int(number[again].max()) if again.any() else 0
    if most:
        steps = np.arange(1, most + 1)
        ax.plot(steps, 2.0 ** (steps - 1) - 1, "--", marker="o", markersize=4, fillstyle="none", color=GENERATED, label="backoff schedule")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    count = int(messages.loc[again.reindex(messages.index, fill_value=False), "idempotency_key"].nunique()) if len(messages) else 0
    title = f"{_count(count, 'message')} retried, up to {most} attempts" if count else "No messages were retried"
    return dressed(ax, title, "attempt", "seconds since the first attempt")


def by_user(frame: pd.DataFrame, ax: Axes) -> Axes:
    """Draw a heat map of the median latency from commit to receipt for each user and second.

    A stronger color is slower, a pale tint is 10 ms or less, and blank means that nothing arrived. If there are more than 200 users,
    several share a line. `frame` is `Ledger.frame()`. x: seconds since the first row was committed; y: users by id.
    """
    received = _timed(frame)
    users = np.sort(received["user_id"].unique().astype("int64"))
    title = "No rows arrived"
    if len(users):
        bands = min(len(users), _BANDS)
        band = np.searchsorted(users, received["user_id"].to_numpy("int64")) * bands // len(users)
        second = _seconds(received, "committed_at").astype(int)
        medians = received["latency_ms"].groupby([band, second]).median()
        grid = np.full((bands, int(second.max()) + 1), np.nan)
        for (line, at), value in medians.items():
            grid[line, at] = max(value, 0.01)
        whole = received.groupby("user_id")["latency_ms"].median()
        title = f"{_count(len(users), 'user')}: median latency {_ms(float(whole.min()))} to {_ms(float(whole.max()))}"
        title += f"; slowest second {_ms(float(medians.max()))}"
        extent = (0, grid.shape[1], 0, len(users))
        norm = LogNorm(_FAST_MS, max(_SLOW_MS, float(medians.max())), clip=True)
        drawn = ax.imshow(grid, aspect="auto", origin="lower", extent=extent, cmap=_SLOWNESS, norm=norm, interpolation="nearest")
        if ax.figure is not None:
            bar = ax.figure.colorbar(drawn, ax=ax, format="{x:,g}", ticks=LogLocator(subs=(1, 2, 5)))
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
            bar.set_label("median latency, ms", color=INK, fontsize=TEXT_POINTS)
            bar.ax.tick_params(which="both", colors=INK, labelsize=TEXT_POINTS)
            bar.outline.set_visible(False)
            bar.ax.patch.set_alpha(0)
        if len(users) <= _NAMED:
            ax.set_yticks(np.arange(len(users)) + 0.5, [f"user {user}" for user in users])
    dressed(ax, title, "seconds since the first row", "" if len(users) <= _NAMED else "users, by id")
    ax.grid(visible=False)
    return ax


def cost_per_change(points: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the engine's CPU time per change for each number of subscribed users, as bars with their values.

    The bars would rise if each user's filter were evaluated for every change. They are level, because the engine looks filters up in an
    index. `points` is `capacity.frame(…)`. x: users; y: microseconds of CPU time, or of elapsed time per delivered webhook if a real
    Sequin server was measured.
    """
    measured = points["engine_us"].notna().all()
    cost = points["engine_us"] if measured else 1e6 / points["webhooks_per_second"]
    bars = ax.bar(np.arange(len(points)), cost, width=0.5, color=DELIVERED)
    ax.bar_label(bars, [f"{value:,.0f} µs" for value in cost], padding=3, color=INK, fontsize=TEXT_POINTS)
    ax.set_xticks(np.arange(len(points)), [f"{users:,}" for users in points["users"]])
    what = "change" if measured else "webhook"
    title = f"Cost per {what}"
    if len(points) > 1:
        first, last = points["users"].iloc[0], points["users"].iloc[-1]
        title = f"With {last:,} users, a {what} costs {cost.iloc[-1] / cost.iloc[0]:.1f} times as much as with {first:,}"
    ax.set_ylim(0, 1.5 * max(1.0, float(cost.max())) if len(points) else 1)
    return dressed(ax, title, "subscribed users", "CPU time per change, µs" if measured else "time per webhook, µs")


def _above(value: float, smallest: float = _SMALLEST_AXIS) -> float:
    """Return an upper end for an axis that leaves some space above this value."""
    return max(smallest, 1.08 * value)


def _largest_by_interval(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start of each interval and the largest value in it, then the last time and value; short arrays are returned unchanged."""
    if len(times) <= 2 * _INTERVALS:
        return times, values
    starts = np.linspace(times[0], times[-1], _INTERVALS, endpoint=False)
    first = np.searchsorted(times, starts)
    before = np.where(first > 0, values[first - 1], 0)
    largest = np.maximum(np.maximum.reduceat(values, first), before)
    empty = np.diff(first, append=len(times)) == 0
    return np.append(starts, times[-1]), np.append(np.where(empty, before, largest), values[-1])


def _owed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["state"].isin(["received", "lost", "not yet arrived"]) & ~frame["backfill"]]


def _timed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["latency_ms"].notna()]


def _seconds(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return the times in a column, without missing ones, as seconds since the first commit in the frame."""
    return np.asarray((frame[column].dropna() - frame["committed_at"].min()).dt.total_seconds(), dtype=float)


def _waiting(owed: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the times of all commits and receipts in seconds, and the number of rows waiting after each of them."""
    up, down = _seconds(owed, "committed_at"), _seconds(owed, "received_at")
    times = np.concatenate([up, down])
    steps = np.concatenate([np.ones(len(up), dtype=int), -np.ones(len(down), dtype=int)])
    order = np.lexsort((-steps, times))
    return times[order], np.cumsum(steps[order])


def _percentile(latencies: np.ndarray, percent: float) -> float:
    """Return a percentile by nearest rank, as in the ledger's verdict."""
    return float(np.percentile(latencies, percent, method="inverted_cdf"))


def _how_it_went(owed: pd.DataFrame) -> str:
    missing = int((owed["state"] != "received").sum())
    if not len(owed):
        return "No rows were expected"
    if missing:
        return f"{missing:,} of {_rows(len(owed))} not delivered"
    slowest = (owed["received_at"] - owed["committed_at"]).max().total_seconds()
    if slowest < _AS_GENERATED:
        return f"{_rows(len(owed))} delivered, each within a second"
    return f"{_rows(len(owed))} delivered, the slowest after {slowest:.0f} s"


def _how_fast(latencies: np.ndarray) -> str:
    if not len(latencies):
        return "No rows arrived"
    return f"Half of the rows arrived within {_ms(_percentile(latencies, 50))}, 99% within {_ms(_percentile(latencies, 99))}"


def _ms(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.0f} s"
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _rows(count: int) -> str:
    return _count(count, "row")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
