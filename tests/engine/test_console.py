"""The console without JavaScript: pages, forms, rejected requests, and the effect of buttons on the running engine."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import Any

import httpx
import psycopg
import pytest

from tests.engine_program import EngineProgram
from tests.receiver import Receiver
from tests.waiting import eventually


def bearer(engine: EngineProgram) -> dict[str, str]:
    return {"Authorization": f"Bearer {engine.token}"}


def page(engine: EngineProgram, path: str = "/", status: int = 200) -> str:
    """Fetch a page; check that it is HTML, and that its content security policy allows only elements with the page's nonce."""
    answer = httpx.get(engine.url + path, headers=bearer(engine))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
    assert nonce is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert answer.text.count(f'nonce="{nonce[1]}"') == 2
    return answer.text


def token(engine: EngineProgram) -> str:
    match = re.search(r'name="csrf" value="([^"]+)"', page(engine))
    assert match is not None
    return match[1]


def press(engine: EngineProgram, path: str, do: str, **fields: str) -> httpx.Response:
    """Submit a form as a browser does."""
    form = {"csrf": token(engine), "do": do, **fields}
    return httpx.post(engine.url + path, data=form, headers={"Origin": engine.url, **bearer(engine)})


def row(engine: EngineProgram, name: str) -> str:
    """Return the text of a sink's row on the first page."""
    element = re.search(rf'<tr id="sink-[^"]+"><th scope="row"><a href="/sinks/{name}">.*?</tr>', page(engine), re.DOTALL)
    assert element is not None
    return re.sub(r"(<[^>]+>|\s)+", " ", element[0])


def insert(database: psycopg.Connection[Any], count: int = 1) -> None:
    database.execute("insert into notifications (user_id, message) select 1, 'x' from generate_series(1, %s)", (count,))


def test_without_sinks_the_page_says_so(engine: EngineProgram) -> None:
    assert "There are no sinks yet." in page(engine)


def test_a_sink_shows_what_it_owes_and_has_delivered(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    insert(database, 12)
    receiver.wait_for(12)
    eventually(lambda: re.search(r"healthy +0 +0 +12 +0", row(engine, "all")))
    assert engine.config["slot"] in page(engine)


def test_pause_and_resume_by_form(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    answer = press(engine, "/sinks/all", "pause", find="a l")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?find=a+l")
    assert engine.ask("GET", "/api/sinks/all")["status"] == "paused"
    insert(database)
    eventually(lambda: re.search(r"paused +1 ", row(engine, "all")))
    assert receiver.requests == []
    answer = press(engine, "/sinks/all", "resume")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sinks/all")
    receiver.wait_for(1)
    assert press(engine, "/sinks/all", "resume").status_code == 409


def test_a_failing_sink_comes_first_and_says_what_receivers_answer(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    receiver.script = lambda path, _: 503 if path == "/bad" else 200
    for name in ("a-good", "bad", "c-good"):
        engine.sink(name, f"{receiver.url}/{name}")
    insert(database)
    eventually(lambda: re.search(r"error +1 .*Unexpected status code: 503", row(engine, "bad")))
    assert re.findall(r'<tr id="sink-.*?/sinks/([^"]+)"', page(engine)) == ["bad", "a-good", "c-good"]
    assert "Unexpected status code: 503" in page(engine, "/sinks/bad")


def test_the_filter_works_without_script(engine: EngineProgram, receiver: Receiver) -> None:
    for name in ("ada", "adam", "bob"):
        engine.sink(name, receiver.url)
    filtered = page(engine, "/?find=ADA")
    assert re.findall(r'<tr id="sink-.*?/sinks/([^"]+)"', filtered) == ["ada", "adam"]
    assert "2 of 3 sinks" in filtered
    assert "No sink has “&lt;b&gt;” in its name." in page(engine, "/?find=%3Cb%3E")


def test_a_store_that_cannot_be_written_is_said_and_nothing_is_done(engine: EngineProgram, receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    form = {"csrf": token(engine), "do": "pause"}
    with closing(sqlite3.connect(engine.config["store"], isolation_level=None)) as other:
        other.execute("begin immediate")
        answer = httpx.post(f"{engine.url}/sinks/all", data=form, headers={"Origin": engine.url, **bearer(engine)}, timeout=20)
    assert answer.status_code == 503
    assert "cannot write to its store" in answer.text
    assert engine.ask("GET", "/api/sinks/all")["status"] == "active"


@pytest.mark.parametrize(
    ("form", "headers", "status"),
    [
        ({"do": "pause"}, {}, 403),
        ({"do": "pause", "csrf": ""}, {}, 403),
        ({"do": "pause", "csrf": "gu\u00e9ssed"}, {}, 403),
        ({"do": "pause", "csrf": "right"}, {"Origin": "http://evil.example"}, 403),
        ({"do": "pause", "csrf": "right"}, {"Origin": "null"}, 403),
        ({"do": "pause", "csrf": "right"}, {"Host": "evil.example"}, 403),
        ({"do": "explode", "csrf": "right"}, {}, 400),
        ({"csrf": "right"}, {}, 400),
        ({"do": "pause", "csrf": "right", "find": "x" * 20_000}, {}, 413),
    ],
)
def test_a_form_that_is_not_ours_changes_nothing(
    engine: EngineProgram, receiver: Receiver, form: dict[str, str], headers: dict[str, str], status: int
) -> None:
    engine.sink("all", receiver.url)
    if form.get("csrf") == "right":
        form = {**form, "csrf": token(engine)}
    assert httpx.post(engine.url + "/sinks/all", data=form, headers=bearer(engine) | headers).status_code == status
    assert engine.ask("GET", "/api/sinks/all")["status"] == "active"


def test_the_token_is_another_one_after_a_restart(engine: EngineProgram, receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    before = token(engine)
    engine.stop()
    engine.http = httpx.Client(base_url=engine.url, headers={"Authorization": f"Bearer {engine.token}"})
    engine.start()
    answer = httpx.post(engine.url + "/sinks/all", data={"do": "pause", "csrf": before}, headers=bearer(engine))
    assert answer.status_code == 403
    assert "Reload the page" in answer.text


def test_what_is_not_there_is_a_page_with_words(engine: EngineProgram, receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    assert "There is no sink &#39;gone&#39;." in page(engine, "/sinks/gone", 404)
    assert "There is no sink &#39;&lt;b&gt;&#39;." in page(engine, "/sinks/%3Cb%3E", 404)
    assert press(engine, "/sinks/gone", "pause").status_code == 404
    assert press(engine, "/sinks/all/backfills/gone", "pause").status_code == 404


def test_a_sinks_page_shows_its_settings_and_no_secret(engine: EngineProgram, receiver: Receiver) -> None:
    secrets = {"headers": {"x-key": "s3cret"}, "encrypted_headers": {"authorization": "Bearer s3cret"}}
    engine.endpoint("e", receiver.url + "/in?key=s3cret", **secrets)
    engine.ask(
        "POST",
        "/api/sinks",
        {
            "name": "all",
            "database": "postgres",
            "table": "public.notifications",
            "annotations": {"note": "<script>alert(1)</script>"},
            "destination": {"type": "webhook", "http_endpoint": "e"},
        },
    )
    html = page(engine, "/sinks/all")
    assert "s3cret" not in html
    assert "authorization: …, x-key: …" in html
    assert f"e, {receiver.url}/in and a query string" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script>alert" not in html


def test_a_backfill_is_paused_resumed_and_cancelled_by_form(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    insert(database, 3_000)
    receiver.gate.clear()
    engine.sink("all", receiver.url)
    backfill = engine.ask("POST", "/api/sinks/all/backfills", {})["id"]
    url = f"/sinks/all/backfills/{backfill}"

    def state() -> str:
        return str(engine.ask("GET", f"/api{url}")["state"])

    eventually(lambda: "of 3,000 rows" in page(engine))
    for do, becomes in (("pause", "paused"), ("resume", "active"), ("cancel", "cancelled")):
        assert press(engine, url, do).headers["location"] == "/sinks/all"
        assert state() == becomes
        assert f'class="{becomes}">{becomes}' in page(engine, "/sinks/all")
    assert press(engine, url, "resume").status_code == 409
    assert press(engine, url, "explode").status_code == 400


def test_of_many_sinks_the_worst_are_shown_and_the_others_counted(engine: EngineProgram, receiver: Receiver) -> None:
    engine.endpoint("e", receiver.url)
    for n in range(103):
        body = {"name": f"sink-{n:03}", "database": "postgres", "table": "public.notifications", "status": "paused"}
        engine.ask("POST", "/api/sinks", {**body, "destination": {"type": "webhook", "http_endpoint": "e"}})
    html = page(engine)
    assert len(re.findall(r'<tr id="sink-', html)) == 100
    assert "103 sinks, failing first; showing the first 100" in html
    assert "sink-102" in page(engine, "/?find=102")


def test_what_was_given_up_is_listed_and_sent_again_one_or_all(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    receiver.script = lambda *_: 500
    engine.sink("all", receiver.url, max_retry_count=1)
    insert(database, 3)
    eventually(lambda: re.search(r"error +0 +0 +0 +3", row(engine, "all")))
    html = page(engine, "/sinks/all")
    assert "Unexpected status code: 500" in html
    ids = re.findall(r'name="message" value="(\d+)"', html)
    assert len(ids) == 3
    receiver.script = lambda *_: 200
    assert press(engine, "/sinks/all", "redeliver", message=ids[0]).status_code == 303
    eventually(lambda: len(re.findall(r'name="message" value="', page(engine, "/sinks/all"))) == 2)
    assert press(engine, "/sinks/all", "redeliver", find="").headers["location"] == "/"
    receiver.wait_for(3)
    eventually(lambda: re.search(r"healthy +0 +0 +3 +0", row(engine, "all")))


def test_without_a_token_the_console_shows_and_does_nothing(engine: EngineProgram, receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    form = {"csrf": token(engine), "do": "pause"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"userhooks-{engine.port}={engine.token}"}):
        for path in ("/", "/?find=all", "/sinks/all", "/sinks/gone"):
            answer = httpx.get(engine.url + path, headers={"Accept": "text/html", **headers})
            assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
            assert "<code>userhooks status</code>" in answer.text
            assert "all</a>" not in answer.text
        answer = httpx.post(f"{engine.url}/sinks/all", data=form, headers={"Origin": engine.url, **headers})
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/json")
    assert engine.ask("GET", "/api/sinks/all")["status"] == "active"
    assert httpx.get(f"{engine.url}/health").status_code == 200
    assert httpx.get(f"{engine.url}/nothing").status_code == 404


def test_a_link_lets_a_browser_into_the_console_until_its_token_is_deleted(engine: EngineProgram, receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    key = engine.ask("POST", "/api/api_keys", {"name": "for a colleague", "token": "colleague"})
    with httpx.Client(base_url=engine.url, follow_redirects=True) as browser:
        answer = browser.get("/", params={"find": "a l", "token": "colleague"})
        assert (answer.status_code, str(answer.url)) == (200, f"{engine.url}/?find=a+l")
        assert "colleague" not in str(answer.history[0].headers["set-cookie"])
        form = {"csrf": token(engine), "do": "pause"}
        assert browser.post("/sinks/all", data=form, headers={"Origin": engine.url}).status_code == 200
        assert engine.ask("GET", "/api/sinks/all")["status"] == "paused"
        engine.ask("DELETE", f"/api/api_keys/{key['id']}")
        assert browser.get("/").status_code == 401
