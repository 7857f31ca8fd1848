"""What a reader clicks in each lesson after all its cells have run; a lesson that has a panel has an entry in CLICKS."""

from __future__ import annotations

from collections.abc import Callable

from tests.browser.reader import Reader
from userhooks.stack.sequin_metrics import firing


def subscribe_cy_and_see_a_row_arrive(reader: Reader) -> None:
    cy = reader.user("cy")
    assert reader.lab.stack.subscriptions.list(cy) == []
    reader.choose("Subscribe", "Cy")
    reader.press("Subscribe")
    reader.sees(f"Cy is subscribed: the sink user-{cy}-notifications sends to")
    [subscription] = reader.lab.stack.subscriptions.list(cy)
    assert reader.lab.stack.sequin.sink(subscription.sink_name).status == "active"
    reader.insert("ada", "From the test <b>&")
    reader.sees("From the test <b>&")


def generate_rows(reader: Reader) -> None:
    before = reader.inbox("ada").count()
    reader.fill("Generate", "Rows per second", "60")
    reader.fill("Generate", "Seconds", "0.5")
    reader.press("Generate")
    reader.sees("30 inserted")
    reader.inbox("ada").wait_for(before + 1)


def send_history_again(reader: Reader) -> None:
    before = reader.inbox("ben").count()
    reader.choose("Backfill", "Ben")
    reader.press("Backfill")
    reader.sees("is completed: Ben's rows were sent again.")
    assert reader.inbox("ben").count() > before


def subscribe_the_receiver_again(reader: Reader) -> None:
    ada = reader.user("ada")
    assert reader.lab.stack.subscriptions.list(ada) == []
    reader.press("Subscribe")
    reader.sees(f"Ada is subscribed: the sink user-{ada}-notifications sends to")
    [subscription] = reader.lab.stack.subscriptions.list(ada)
    assert reader.panel("Subscribe").get_by_label("URL").input_value() == subscription.url


def look_into_adas_inbox(reader: Reader) -> None:
    reader.press("Update now")
    reader.sees("1 webhook in the inbox of Ada")
    reader.sees("One of thousands")


def set_answers_then_kill_and_restart_the_engine(reader: Reader) -> None:
    reader.press("Add the rule")
    reader.press("Set these answers")
    reader.sees("Ada's inbox answers first 3: 500; else: 200.")
    kill_and_restart_the_engine(reader)


def kill_and_restart_the_engine(reader: Reader) -> None:
    heal_with_the_fault_dial(reader)
    reader.press("Kill the engine")
    reader.sees("The engine is killed.")
    reader.insert("ada", "while nobody reads")
    reader.press("Restart the engine")
    reader.sees("The engine is restarted.")
    reader.inbox("ada").wait_for(1, match=lambda message: message.record["message"] == "while nobody reads")


def heal_with_the_fault_dial(reader: Reader) -> None:
    reader.press("Clear all faults")
    reader.sees("Ada: no faults.")


def pause_and_resume_and_see_it_in_the_metrics(reader: Reader) -> None:
    heal_with_the_fault_dial(reader)
    reader.press("Pause the sink")
    reader.sees("Ada: sink paused.")
    sink = f"user-{reader.user('ada')}-notifications"
    assert list(firing(f'sequin_entity_health{{entity_name="{sink}"}} == 1', reader.lab.stack.metrics())["status"]) == ["paused"]
    reader.press("Resume the sink")
    reader.sees("Ada: sink resumed.")
    assert list(firing(f'sequin_entity_health{{entity_name="{sink}"}} == 1', reader.lab.stack.metrics())["status"]) == ["ok"]


CLICKS: dict[str, Callable[[Reader], None]] = {
    "01_first_webhook": subscribe_cy_and_see_a_row_arrive,
    "02_traffic": generate_rows,
    "03_backfill": send_history_again,
    "05_when_receivers_fail": set_answers_then_kill_and_restart_the_engine,
    "07_shape_and_receive": subscribe_the_receiver_again,
    "08_many_users": look_into_adas_inbox,
    "09_watching_it": pause_and_resume_and_see_it_in_the_metrics,
}
"""Notebook -> what is clicked, and what must come of it."""
