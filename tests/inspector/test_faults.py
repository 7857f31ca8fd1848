"""Whatever a response script does, the responses that senders saw match those that the inbox recorded, and no request is lost."""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.inspector.program import TOKEN, Program, running
from tests.waiting import eventually
from userhooks.inspector.client import Inbox, InspectorClient
from userhooks.inspector.response_script import decide, parse_script

SENDERS, REQUESTS = 8, 60


def send(program: Program, inbox: Inbox, sender: int, seen: dict[int, int | None]) -> None:
    """Send numbered requests one after the other, and record each status in `seen`, or None if there was no response."""
    for number in range(sender, SENDERS * REQUESTS, SENDERS):
        connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=10)
        try:
            connection.request("POST", f"/in/{inbox.id}", body=str(number))
            answer = connection.getresponse()
            answer.read()
            seen[number] = answer.status
        except ConnectionError:
            seen[number] = None
        finally:
            connection.close()


@pytest.mark.parametrize("seed", range(3))
def test_senders_and_inbox_agree_under_random_faults(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    faults = [
        {"first": dice.randrange(20), "status": dice.choice([410, 429, 500, 503]), "retry_after": dice.randrange(5)},
        {"every": dice.randrange(2, 9), "effect": "reset"},
        {"percent": dice.randrange(60), "seed": dice.randrange(1000), "status": dice.choice([201, 302, 404]), "delay": 0.01},
        {"percent": 20, "seed": dice.randrange(1000), "effect": dice.choice(["redirect", "oversized"])},
    ]
    dice.shuffle(faults)
    script = parse_script(faults)
    print(f"seed {seed}: {faults}")
    seen: dict[int, int | None] = {}
    with running(tmp_path) as program, InspectorClient(program.url, TOKEN) as client:
        inbox = client.inbox("ada")
        inbox.respond(faults)
        senders = [threading.Thread(target=send, args=(program, inbox, sender, seen)) for sender in range(SENDERS)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        eventually(lambda: not any(received.unanswered for received in inbox.received()))
        recorded = list(inbox.received())
        log = program.log.read_text()
    assert [received.seq for received in recorded] == list(range(1, SENDERS * REQUESTS + 1))
    assert {int(received.body): received.response_status for received in recorded} == seen
    assert [received.response for received in recorded] == [decide(script, received.seq).words for received in recorded]
    assert len(Counter(received.response for received in recorded)) >= 3
    assert "Traceback" not in log
