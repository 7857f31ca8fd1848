"""Parse Sequin's Prometheus page to a DataFrame, and evaluate the expressions of alert rules on it. Pure; `stack.py` fetches the page.

The page is in Prometheus' text format 0.0.4. Of PromQL, only a selector compared with a number is supported: no functions, arithmetic, or
`for`.
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
_LABELS = ("consumer_id", "consumer_name", "entity_id", "entity_name", "status")
_RULE = re.compile(r"(.+)(==|!=|>=|<=|>|<)\s*([-+.\w]+)\s*", re.ASCII)


def parse(text: str) -> pd.DataFrame:
    """Return the samples of a metrics page as a DataFrame with one row per sample.

    Columns: `metric` (str), `value` (float64), and one per label (str, missing if a sample does not have that label). The labels
    `consumer_id`, `consumer_name`, `entity_id`, `entity_name`, and `status` name a sink and its health. They always have a column, so that
    programs can select by them even if nothing has been delivered yet. A histogram consists of the samples `…_bucket` (label `le`),
    `…_sum`, and `…_count`. Raises InvalidInput, naming the line, if `text` is not a metrics page.

        page = parse('sequin_messages_buffered{consumer_name="user-1-notifications"} 3')
        page.loc[0, "value"]
    """
    samples = [_sample(line) for line in text.split("\n") if line.strip() and not line.startswith("#")]
    labels = dict.fromkeys([*_LABELS, *(name for _, sample_labels, _ in samples for name in sample_labels)])
    columns = {
        "metric": pd.Series([metric for metric, _, _ in samples], dtype="str"),
        "value": pd.Series([value for _, _, value in samples], dtype="float64"),
        **{name: pd.Series([sample_labels.get(name) for _, sample_labels, _ in samples], dtype="str") for name in labels},
    }
    return pd.DataFrame(columns)


def firing(expression: str, page: pd.DataFrame) -> pd.DataFrame:
    """Return as a DataFrame the rows of a parsed page that match an expression like `sequin_messages_buffered{consumer_name="a"} > 100`.

    An expression consists of a metric, optional labels with `=`, and a comparison with a number. Raises InvalidInput for any other.
    """
    rule = _RULE.fullmatch(expression)
    try:
        selector, comparison, bound = rule.groups() if rule else ("", "", "")
        metric, labels, _ = _parsed(f"{selector} 0")
        matches = _COMPARISONS[comparison](page["value"], float(bound))
    except (KeyError, ValueError):
        what = f"The expression {expression!r} is not supported."
        raise InvalidInput("expression", what, 'Write it like metric{label="value"} > 1, or evaluate it in Prometheus.') from None
    matches &= page["metric"] == metric
    for name, value in labels.items():
        matches &= page[name] == value if name in page else False
    return page[matches]


def _sample(line: str) -> tuple[str, dict[str, str], float]:
    try:
        return _parsed(line)
    except ValueError:
        raise InvalidInput(
            "page", f"This line is not in Prometheus' text format: {line[:80]!r}.", "Check that the URL is that of the metrics page."
        ) from None


def _parsed(line: str) -> tuple[str, dict[str, str], float]:
    """Return the metric, labels, and value of a line. Each line is parsed on its own, because the parser otherwise renames counters."""
    ((sample,),) = (family.samples for family in text_string_to_metric_families(line))
    return sample.name, sample.labels, sample.value
