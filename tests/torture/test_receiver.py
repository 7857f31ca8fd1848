"""The receiver of the torture tests has recorded everything that a killed sender sent once `settle` returns."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path

from tests.torture.receiver import ReceiverProgram

SENDERS = 300


def request(number: int) -> bytes:
    key = base64.b64encode(f"{number}:0".encode()).decode()
    metadata = {"idempotency_key": key, "commit_timestamp": "2026-01-01T00:00:00Z"}
    body = json.dumps({"record": {"id": number, "user_id": 1, "message": "1"}, "action": "insert", "metadata": metadata}).encode()
    return b"POST /1 HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def test_settle_waits_until_everything_sent_on_closed_connections_is_recorded(tmp_path: Path) -> None:
    receiver = ReceiverProgram(tmp_path, seed=1)
    try:
        for number in range(SENDERS):
            with socket.create_connection(("127.0.0.1", receiver.ports[number % 2])) as sender:
                sender.sendall(request(number))
        receiver.settle()
        assert receiver.distinct() == len(list(receiver.arrivals())) == SENDERS
    finally:
        receiver.close()
