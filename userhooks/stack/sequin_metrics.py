"""Sequin's Prometheus page as a DataFrame, and the expression of an alert rule held against it. Pure; `stack.py` fetches the page.

The page is in Prometheus' text format 0.0.4. Of the rules' language, PromQL, only a selector and a comparison with a number are understood
here; functions, arithmetic and `for` are Prometheus' own.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from userhooks.errors import InvalidInput
from userhooks.shared.extras import lab_extra

with lab_extra():
    import pandas as pd

_COMPARISONS: Mapping[str, Callable[[Any, float], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
_LABELS = ("consumer_name", "entity_name", "status")
_RULE = re.compile(r"(.+)(==|!=|>=|<=|>|<)\s*([-+.\w]+)\s*", re.ASCII)


def parse(text: str) -> pd.DataFrame:
    """Read a metrics page: one row for each sample.

    Columns: `metric` (str), `value` (float64), the labels that name a sink (`consumer_name`, `entity_name`) and its health (`status`), and
    each other label that occurs (str, missing where a sample has no such label). Those three are there even on the page of a server that
    has delivered nothing yet, so that a program can select by them. A histogram is the samples `…_bucket` (label `le`), `…_sum` and
    `…_count`. Raises InvalidInput, naming the line, for what is no such page.

        page = parse('sequin_messages_buffered{consumer_name="user-1-notifications"} 3')
        page.loc[0, "value"]
    """
    samples = [_sample(line) for line in text.split("\n") if line.strip() and not line.startswith("#")]
    labels = dict.fromkeys([*_LABELS, *(name for _, found, _ in samples for name in found)])
    columns = {
        "metric": pd.Series([metric for metric, _, _ in samples], dtype="str"),
        "value": pd.Series([value for _, _, value in samples], dtype="float64"),
        **{name: pd.Series([found.get(name) for _, found, _ in samples], dtype="str") for name in labels},
    }
    return pd.DataFrame(columns)


def firing(expression: str, page: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a `parse`d page for which a rule's expression is true, like `sequin_messages_buffered{consumer_name="a"} > 100`.

    Raises InvalidInput for an expression that holds more than a metric, labels with `=`, and a comparison with a number.
    """
    rule = _RULE.fullmatch(expression)
    try:
        selector, comparison, bound = rule.groups() if rule else ("", "", "")
        metric, labels, _ = _parsed(f"{selector} 0")
        holds = _COMPARISONS[comparison](page["value"], float(bound))
    except (KeyError, ValueError):
        what = f"The expression {expression!r} is more than is understood here."
        raise InvalidInput("expression", what, 'Write it like metric{label="value"} > 1, or give it to Prometheus.') from None
    holds &= page["metric"] == metric
    for name, value in labels.items():
        holds &= page[name] == value if name in page else False
    return page[holds]


def _sample(line: str) -> tuple[str, dict[str, str], float]:
    try:
        return _parsed(line)
    except ValueError:
        raise InvalidInput("page", f"This line is in no Prometheus page: {line[:80]!r}.", "Is it the address of /metrics?") from None


def _parsed(line: str) -> tuple[str, dict[str, str], float]:
    """Return metric, labels and value of one line; read alone, since within a page the parser adds `_total` to the names of counters."""
    ((sample,),) = (family.samples for family in text_string_to_metric_families(line))
    return sample.name, sample.labels, sample.value
