"""Parsing a metrics page into a DataFrame, evaluating expressions on it, and the rules of notebooks/alerts.yaml."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from userhooks.engine.api.prometheus import _labels
from userhooks.errors import InvalidInput
from userhooks.stack.sequin_metrics import firing, parse

ROOT = Path(__file__).parents[2]
RECORDED = (ROOT / "tests" / "recordings" / "0.14.6" / "metrics-page.txt").read_text(encoding="utf-8")
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "notebooks" / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]

PAGE = """\
# HELP sequin_messages_buffered Messages not delivered yet.
# TYPE sequin_messages_buffered gauge
sequin_messages_buffered{consumer_id="1",consumer_name="ada"} 3
sequin_messages_buffered{consumer_id="2",consumer_name="ben"} 0

userhooks_store_bytes 4096 1700000000000
sequin_delivery_latency_us_bucket{consumer_name="ada",le="+Inf"} 7
"""


def samples(page: pd.DataFrame) -> list[tuple[str, float, dict[str, str]]]:
    labels = [name for name in page.columns if name not in ("metric", "value")]
    return [
        (row["metric"], row["value"], {name: row[name] for name in labels if isinstance(row[name], str)})
        for row in page.to_dict(orient="records")
    ]


def test_a_page_has_one_row_for_each_sample_and_a_column_for_each_label() -> None:
    assert samples(parse(PAGE)) == [
        ("sequin_messages_buffered", 3.0, {"consumer_id": "1", "consumer_name": "ada"}),
        ("sequin_messages_buffered", 0.0, {"consumer_id": "2", "consumer_name": "ben"}),
        ("userhooks_store_bytes", 4096.0, {}),
        ("sequin_delivery_latency_us_bucket", 7.0, {"consumer_name": "ada", "le": "+Inf"}),
    ]
    assert list(parse(PAGE).columns[:2]) == ["metric", "value"]


def test_a_recorded_page_is_read_as_the_reference_parser_reads_it() -> None:
    text = RECORDED.replace(" counter\n", " untyped\n")  # this parser adds _total to the names of counters
    expected = [(s.name, s.value, s.labels) for family in text_string_to_metric_families(text) for s in family.samples]
    assert len(expected) > 100
    by_name = lambda sample: (sample[0], sorted(sample[2].items()))  # noqa: E731
    assert sorted(samples(parse(RECORDED)), key=by_name) == sorted(expected, key=by_name)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_label_that_the_engine_writes_comes_back_whatever_it_holds(value: str) -> None:
    page = parse(f"metric{_labels({'name': value})} 1\nother 2\n")
    assert samples(page) == [("metric", 1.0, {"name": value}), ("other", 2.0, {})]


def test_special_values_are_numbers() -> None:
    values = list(parse("a NaN\nb +Inf\nc -Inf\nd 1.5e3\n")["value"])
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, 1500.0]


@pytest.mark.parametrize("page", ["", 'sequin_delivery_saturation_percent{other="x"} 1'])
def test_a_page_without_any_sink_can_be_searched_for_one(page: str) -> None:
    frame = parse(page)
    assert frame[frame["consumer_name"] == "ada"].set_index("entity_name")["status"].to_dict() == {}
    assert firing('a{consumer_name="ada"} > 1', frame).empty


@pytest.mark.parametrize("text", ["<html>", "metric", "metric{a=b} 1", 'metric{a="b} 1', "metric one"])
def test_what_is_no_metrics_page_is_named(text: str) -> None:
    with pytest.raises(InvalidInput, match="text format"):
        parse(f"fine 1\n{text}\n")


def test_a_malformed_line_or_expression_with_many_labels_is_refused_at_once() -> None:
    many = "metric{" + 24 * 'a="b" ' + "!}"
    began = time.process_time()
    with pytest.raises(InvalidInput, match="text format"):
        parse(f"{many} 1\n")
    with pytest.raises(InvalidInput, match="is not supported"):
        firing(f"{many} > 1", parse(PAGE))
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("expression", "who"),
    [
        ("sequin_messages_buffered > 2", ["ada"]),
        ("sequin_messages_buffered >= 0", ["ada", "ben"]),
        ('sequin_messages_buffered{consumer_name="ben"} == 0', ["ben"]),
        ('sequin_messages_buffered{consumer_name="ben", consumer_id="1"} == 0', []),
        ('sequin_messages_buffered{nothing="x"} >= 0', []),
        ("sequin_messages_buffered != 3", ["ben"]),
        ("sequin_messages_buffered < 1e9", ["ada", "ben"]),
        ("unknown_metric > 0", []),
    ],
)
def test_an_expression_gives_the_samples_for_which_it_is_true(expression: str, who: list[str]) -> None:
    assert list(firing(expression, parse(PAGE))["consumer_name"]) == who


@pytest.mark.parametrize("expression", ["", "metric", "rate(metric[5m]) > 0", "a > b", 'a{b!="c"} > 1', "a > 1 and b > 1", "1 > 0"])
def test_an_expression_that_says_more_is_refused(expression: str) -> None:
    with pytest.raises(InvalidInput, match="is not supported"):
        firing(expression, parse(PAGE))


# --- notebooks/alerts.yaml -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_is_complete_and_names_what_a_page_has(rule: dict[str, Any]) -> None:
    assert rule.keys() == {"alert", "expr", "for", "labels"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    metric = rule["expr"].partition("{")[0].split()[0]
    declared = {line.split(" ")[2] for line in RECORDED.splitlines() if line.startswith("# TYPE ")}
    assert metric in declared or metric == "up" or metric.startswith("userhooks_")
    firing(rule["expr"], parse(PAGE))


def test_the_rules_fire_for_what_they_are_about_and_for_nothing_else() -> None:
    fine = """\
up{job="sequin"} 1
sequin_entity_health{entity_type="replication_slot",entity_name="slot",status="error"} 0
sequin_entity_health{entity_type="sink",entity_name="ada",status="error"} 0
sequin_entity_health{entity_type="sink",entity_name="ada",status="paused"} 1
sequin_replication_slot_size{slot_name="slot"} 17000000
userhooks_oldest_message_age_seconds{consumer_name="ada"} 4.2
"""
    assert [rule["alert"] for rule in RULES if len(firing(rule["expr"], parse(fine)))] == []
    for line, alert in (
        ('up{job="sequin"} 0', "SequinIsDown"),
        ('sequin_entity_health{entity_type="replication_slot",entity_name="slot",status="error"} 1', "SlotIsNotRead"),
        ('sequin_replication_slot_size{slot_name="slot"} 1000000001', "SlotKeepsWal"),
        ('sequin_entity_health{entity_type="sink",entity_name="ada",status="error"} 1', "ReceiverFails"),
        ('userhooks_oldest_message_age_seconds{consumer_name="ada"} 301', "WebhooksAreLate"),
    ):
        assert [rule["alert"] for rule in RULES if len(firing(rule["expr"], parse(fine + line)))] == [alert]
