"""Plots of a ledger: each function draws into the given Axes and returns it. The data comes from `Ledger.frame()`.

Nothing here uses pyplot or rcParams. Backgrounds are transparent and colors have a medium lightness, so that a figure is readable on
light and dark pages. Lines also differ in style, so that a figure is readable without color.

This module is long because each plot is one function.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from userhooks.shared.extras import lab_extra

with lab_extra():
    import numpy as np
    import pandas as pd
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#777777"
"""Color of text and axes; its contrast ratio is above 4 on white and on JupyterLab's dark background."""
GENERATED, DELIVERED, MARK = "#0072b2", "#d55e00", "#009e73"
"""Colors that people with common kinds of color blindness can tell apart (the palette of Okabe and Ito)."""

_STYLES = (("-", GENERATED), ("--", DELIVERED), (":", MARK))

ONE_SECOND = pd.Timedelta(seconds=1)

_SLOWNESS = ListedColormap(colormaps["cividis_r"](np.linspace(0, 0.8, 256)))
"""Color map without its darkest part, which would not be visible on a dark page."""

_BANDS, _NAMED, _NAMED_MARKS = 200, 20, 6
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
    edges = np.arange(0, np.ceil(max([1.0, *generated, *delivered]) + 1e-9) + 1)
    for times, label, colour, style, marker in (
        (generated, "generated", GENERATED, "--", "o"),
        (delivered, "delivered", DELIVERED, "-", "x"),
    ):
        counts, _ = np.histogram(times, edges)
        ax.plot(edges[:-1] + 0.5, counts, style, marker=marker, markersize=5, color=colour, clip_on=False, label=label)
    ax.set_ylim(bottom=0)
    return _dressed(ax, _how_it_went(owed), "seconds since the first row", "rows per second")


def latency_over_time(frame: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the latency of each row, from commit to receipt, over the time of its commit, with the median and the 99th percentile.

    `frame` is `Ledger.frame()`. x: seconds since the first row was committed; y: milliseconds, on a logarithmic scale if they vary widely.
    """
    received = _timed(frame)
    latencies = received["latency_ms"].to_numpy()
    ax.plot(_seconds(received, "committed_at"), latencies, ".", color=DELIVERED, markersize=4, alpha=0.6, label="one row", rasterized=True)
    if len(latencies):
        for percent, style in ((50, "-"), (99, "--")):
            value = _percentile(latencies, percent)
            ax.axhline(value, color=GENERATED, linestyle=style, label=f"{percent} % within {_ms(value)}")
        if latencies.min() > 0 and latencies.max() > 100 * np.median(latencies):
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter("{x:,g}")
        else:
            ax.set_ylim(bottom=min(0.0, float(latencies.min())))
    return _dressed(ax, _how_fast(latencies), "seconds since the first row", "commit to receipt, ms")


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
            ax.plot([value], [percent], marker, color=GENERATED, label=f"{percent} % within {_ms(value)}")
        if latencies[0] > 0:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:,g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(0, 103)
    return _dressed(ax, _how_fast(latencies), "commit to receipt, ms", "rows arrived, %")


def backlog(frame: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the number of rows that were committed but not yet delivered, over time.

    `frame` is `Ledger.frame()`. x: seconds since the first row was committed; y: rows waiting.
    """
    owed = _owed(frame)
    times, waiting = _waiting(owed)
    ax.plot(times, waiting, "-", drawstyle="steps-post", color=DELIVERED, label="waiting")
    peak = int(waiting.max()) if len(waiting) else 0
    caught_up = 0.0
    if peak:
        where = int(waiting.argmax())
        ax.plot([times[where]], [peak], "v", color=MARK, label=f"most: {peak:,} after {times[where]:.1f} s")
        caught_up = times[where + int((waiting[where:] == 0).argmax())] - times[where]
        if caught_up > _AS_GENERATED and not waiting[-1]:
            ax.plot([times[where] + caught_up], [0], "o", color=GENERATED, label=f"caught up {caught_up:.1f} s later")
    left = int(waiting[-1]) if len(waiting) else 0
    if not len(owed):
        title = "No row was owed to anybody"
    elif left:
        title = f"{_rows(left)} still waiting at the end"
    else:
        title = f"At most {_rows(peak)} waiting, " + ("none at the end" if caught_up <= _AS_GENERATED else f"none {caught_up:.1f} s later")
    ax.set_ylim(bottom=0)
    return _dressed(ax, title, "seconds since the first row", "rows waiting")


def arrivals(messages: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the number of messages received so far over time, separately for backfilled rows (`read`) and live changes.

    `messages` is `Inbox.messages()`. x: seconds since the first message; y: messages so far.
    """
    history = messages["action"] == "read"
    for kind, label, colour, style in ((history, "read, by a backfill", MARK, "-"), (~history, "live", DELIVERED, "--")):
        times = messages.loc[kind, "received_at"].sort_values()
        seconds = (times - messages["received_at"].min()).dt.total_seconds()
        ax.plot(seconds, np.arange(1, len(seconds) + 1), style, drawstyle="steps-post", color=colour, label=label)
    ax.set_ylim(bottom=0)
    title = f"{_count(int(history.sum()), 'message')} of history beside {int((~history).sum()):,} live"
    return _dressed(ax, title, "seconds since the first message", "messages so far")


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
    return _dressed(ax, title or "Nothing was answered", "answer", "the sender waited, ms")


def rates(frame: pd.DataFrame, marks: Sequence[tuple[datetime, str]], ax: Axes) -> Axes:
    """Draw the rows written, delivered, and refused in each second, summed over all users.

    `frame` is from `pulse`, and `marks` are pairs of an aware time and a description of the event. x: seconds since the frame's first
    second, with a point in the middle of each second; y: rows or requests per second.
    """
    together = frame.groupby("second")[["generated", "delivered", "refused"]].sum()
    x = _since_first(together.index.to_series(), frame) + 0.5
    for column, label, colour, style, marker in (
        ("generated", "written", GENERATED, "--", "o"),
        ("delivered", "delivered", DELIVERED, "-", "x"),
        ("refused", "refused or unanswered", MARK, ":", "^"),
    ):
        ax.plot(x, together[column], style, marker=marker, markersize=4, markevery=_sparse(x), color=colour, clip_on=False, label=label)
    ax.set_ylim(bottom=0)
    _marked(marks, frame, ax)
    written, delivered, refused = (int(together[column].sum()) for column in ("generated", "delivered", "refused"))
    title = f"{_rows(written)} written, {delivered:,} deliveries, {_count(refused, 'attempt')} refused or unanswered"
    return _dressed(ax, title, "seconds since the dial was opened", "per second")


def waiting(frame: pd.DataFrame, marks: Sequence[tuple[datetime, str]], ax: Axes) -> Axes:
    """Draw the number of each user's waiting rows at the end of each second; `marks` are as in `rates`.

    `frame` is from `pulse`. x: seconds since the frame's first second, with a point at the end of each second; y: rows.
    """
    styles = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "d"))
    for number, (user, rows) in enumerate(frame.groupby("user", sort=False)):
        style, marker = styles[number % len(styles)]
        colour = (DELIVERED, GENERATED, MARK)[number % 3]
        x = _since_first(rows["second"], frame) + 1
        ax.plot(x, rows["waiting"], style, marker=marker, markersize=3, markevery=_sparse(x), color=colour, clip_on=False, label=str(user))
    ax.set_ylim(bottom=0)
    _marked(marks, frame, ax, named=0)
    last = frame[frame["second"] == frame["second"].max()] if len(frame) else frame
    late = {str(row.user): int(row.waiting) for row in last.itertuples() if row.waiting}
    title = "; ".join(f"{_rows(count)} of {user} wait" for user, count in late.items())
    if len(late) > _NAMED:
        title = f"Rows of {len(late)} users wait"
    return _dressed(ax, title or "Nobody waits", "seconds since the dial was opened", "rows waiting")


def pulse_picture(frame: pd.DataFrame, marks: Sequence[tuple[datetime, str]]) -> bytes:
    """Return a PNG with the `rates` of each user side by side, above `waiting` for all users.

    The fault dial calls this every second, so it must be fast.
    """
    users = [str(user) for user in frame["user"].unique()] or ["nobody"]
    figure = Figure(figsize=(10, 6))
    figure.patch.set_alpha(0)
    # Fixed positions, because computing a layout would take as long as drawing.
    grid = figure.add_gridspec(1, len(users), left=0.07, right=0.985, top=0.9, bottom=0.62, wspace=0.08)
    axes = list(grid.subplots(sharex=True, sharey=True, squeeze=False)[0])
    for user, ax in zip(users, axes, strict=True):
        own = frame[frame["user"] == user]
        rates(own, marks, ax)
        written, delivered, refused = (int(own[column].sum()) for column in ("generated", "delivered", "refused"))
        ax.set_title(f"{user}: {written:,} written,\n{delivered:,} delivered, {refused:,} refused", color=INK, fontsize="medium")
        ax.set_xlabel("seconds", color=INK)
        ax.get_legend().remove()
    for ax in axes[1:]:
        ax.set_ylabel("")
    named = axes[0].get_legend_handles_labels()
    figure.legend(*named, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(0.06, 0.53), ncols=3)
    waiting(frame, marks, figure.add_axes((0.07, 0.13, 0.915, 0.2)))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return file.getvalue()


def watched(samples: pd.DataFrame, ax: Axes) -> Axes:
    """Draw samples of a gauge, with a line for each column, for example the messages waiting for each user.

    `samples` has one row per sample; its index is the time of the sample in seconds. x: seconds since the first sample; y: messages
    waiting.
    """
    for number, name in enumerate(samples):
        style, colour = _STYLES[number % len(_STYLES)]
        ax.plot(samples.index - samples.index.min(), samples[name], style, drawstyle="steps-post", color=colour, label=str(name))
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if not samples.size or not samples.max().max():
        return _dressed(ax, "Nobody waits", "seconds", "messages waiting")
    most = samples.max().idxmax()
    title = f"At most {samples[most].max():,.0f} waiting for {most}, {samples[most].iloc[-1]:,.0f} at the end"
    return _dressed(ax, title, "seconds", "messages waiting")


def retries(messages: pd.DataFrame, ax: Axes) -> Axes:
    """Draw when each refused message was retried, next to the schedule of 1, 2, 4, … seconds.

    `messages` is `Inbox.messages()`. x: the attempt; y: seconds since the message's first attempt.
    """
    tries = messages.sort_values("seq").groupby("idempotency_key", sort=False)["received_at"]
    after = (messages.sort_values("seq")["received_at"] - tries.transform("min")).dt.total_seconds()
    number = tries.cumcount() + 1
    again = tries.transform("size") > 1
    ax.plot(number[again], after[again], "x", color=DELIVERED, label="an attempt")
    most = int(number[again].max()) if again.any() else 0
    if most:
        steps = np.arange(1, most + 1)
        ax.plot(steps, 2.0 ** (steps - 1) - 1, "--", marker="o", markersize=4, fillstyle="none", color=GENERATED, label="the schedule")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    count = int(messages.loc[again.reindex(messages.index, fill_value=False), "idempotency_key"].nunique()) if len(messages) else 0
    title = f"{_count(count, 'message')} tried again, up to {most} attempts" if count else "No message had to be tried again"
    return _dressed(ax, title, "attempt", "seconds since the first attempt")


def by_user(frame: pd.DataFrame, ax: Axes) -> Axes:
    """Draw a heat map of the median latency from commit to receipt for each user and second.

    Darker is slower, and blank means that nothing arrived. If there are more than 200 users, several share a line. `frame` is
    `Ledger.frame()`. x: seconds since the first row was committed; y: users by id.
    """
    received = _timed(frame)
    users = np.sort(received["user_id"].unique().astype("int64"))
    title = "No row arrived"
    if len(users):
        bands = min(len(users), _BANDS)
        band = np.searchsorted(users, received["user_id"].to_numpy("int64")) * bands // len(users)
        second = _seconds(received, "committed_at").astype(int)
        medians = received["latency_ms"].groupby([band, second]).median()
        grid = np.full((bands, int(second.max()) + 1), np.nan)
        for (line, at), value in medians.items():
            grid[line, at] = max(value, 0.01)
        whole = received.groupby("user_id")["latency_ms"].median()
        title = f"{_count(len(users), 'user')}: medians {_ms(float(whole.min()))} to {_ms(float(whole.max()))}"
        title += f", slowest second {_ms(float(medians.max()))}"
        extent = (0, grid.shape[1], 0, len(users))
        drawn = ax.imshow(grid, aspect="auto", origin="lower", extent=extent, cmap=_SLOWNESS, norm=LogNorm(), interpolation="nearest")
        if ax.figure is not None:
            bar = ax.figure.colorbar(drawn, ax=ax, format="{x:,g}", ticks=LogLocator(subs=(1, 2, 5)))
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
            bar.set_label("median, ms", color=INK)
            bar.ax.tick_params(which="both", colors=INK)
        if len(users) <= _NAMED:
            ax.set_yticks(np.arange(len(users)) + 0.5, [f"user {user}" for user in users])
    _dressed(ax, title, "seconds since the first row", "" if len(users) <= _NAMED else "users, by id")
    ax.grid(visible=False)
    return ax


def cost_per_change(points: pd.DataFrame, ax: Axes) -> Axes:
    """Draw the engine's CPU time per change over the number of subscribed users.

    The line would rise if each user's filter were evaluated for every change. It is flat, because the engine looks filters up in an index.
    `points` is `capacity.frame(…)`. x: users, on a logarithmic scale; y: microseconds of CPU time, or of elapsed time per delivered webhook
    if a real Sequin server was measured.
    """
    measured = points["engine_us"].notna().all()
    cost = points["engine_us"] if measured else 1e6 / points["webhooks_per_second"]
    ax.plot(points["users"], cost, "-", marker="o", color=DELIVERED, label="measured")
    if len(points) > 1:
        first, last = points["users"].iloc[0], points["users"].iloc[-1]
        ax.axhline(cost.iloc[0], linestyle="--", color=GENERATED, label=f"as with {first:,} users")
        title = f"{last:,} users cost {cost.iloc[-1] / cost.iloc[0]:.1f} times what {first:,} cost"
    else:
        title = "What one change costs"
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.set_ylim(0, max(1.0, 1.5 * float(cost.max())) if len(points) else 1)
    return _dressed(ax, title, "subscribed users", "CPU for one change, µs" if measured else "time for one webhook, µs")


def _since_first(times: pd.Series, frame: pd.DataFrame) -> np.ndarray:
    return np.asarray((times - frame["second"].min()).dt.total_seconds())


def _sparse(x: np.ndarray) -> int:
    """Return the step between points with a marker, so that many markers do not merge into a bar."""
    return max(1, len(x) // 40)


def _marked(marks: Sequence[tuple[datetime, str]], frame: pd.DataFrame, ax: Axes, *, named: int = _NAMED_MARKS) -> None:
    """Draw a numbered line for each mark. The legend describes the `named` newest marks."""
    for number, (moment, text) in enumerate(marks, 1):
        at = (pd.Timestamp(moment) - frame["second"].min()).total_seconds() if len(frame) else 0.0
        label = f"{number}: {text}" if number > len(marks) - named else None
        ax.axvline(at, color=INK, linestyle="-", linewidth=0.8, label=label)
        ax.annotate(str(number), (at, 1), (3, -3), xycoords=("data", "axes fraction"), textcoords="offset points", color=INK, va="top")


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
        return "No row was owed to anybody"
    if missing:
        return f"{_rows(missing)} of {len(owed):,} not delivered"
    slowest = (owed["received_at"] - owed["committed_at"]).max().total_seconds()
    if slowest < _AS_GENERATED:
        return f"{_rows(len(owed))} delivered as fast as they were generated"
    return f"{_rows(len(owed))} delivered, the slowest {slowest:.0f} s after it was generated"


def _how_fast(latencies: np.ndarray) -> str:
    if not len(latencies):
        return "No row arrived"
    return f"Half the rows arrived within {_ms(_percentile(latencies, 50))}, 99 % within {_ms(_percentile(latencies, 99))}"


def _ms(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.0f} s"
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _rows(count: int) -> str:
    return _count(count, "row")


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _dressed(ax: Axes, title: str, x: str, y: str) -> Axes:
    ax.set_title(title, color=INK)
    ax.set_xlabel(x, color=INK)
    ax.set_ylabel(y, color=INK)
    ax.tick_params(which="both", colors=INK)
    for name, spine in ax.spines.items():
        spine.set_color(INK)
        spine.set_visible(name in ("left", "bottom"))
    ax.grid(visible=True, axis="y", color=INK, alpha=0.25)
    ax.patch.set_alpha(0)
    if ax.figure is not None:
        ax.figure.patch.set_alpha(0)
    if ax.get_legend_handles_labels()[0]:
        # Below the axes, so that it never covers a line.
        ax.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=3, borderaxespad=0)
    return ax
