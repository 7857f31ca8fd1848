"""The console without JavaScript: pages, forms, rejected requests, and the effect of buttons on the running engine."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import psycopg
import pytest

from tests.conftest import PUBLICATION
from tests.engine_program import EngineProgram
from tests.ports import free_port
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


def press(engine: EngineProgram, path: str, do: str, **fields: str | list[str]) -> httpx.Response:
    """Submit a form as a browser does."""
    form = {"csrf": token(engine), "do": do, **fields}
    return httpx.post(engine.url + path, data=form, headers={"Origin": engine.url, **bearer(engine)})


def row(engine: EngineProgram, name: str) -> str:
    """Return the text of a sink's row on the first page: name, user, URL, state, rate, then delivered, pending, retrying, discarded."""
    element = re.search(rf'<tr id="sink-[^"]+"><th scope="row"><a href="/sinks/{name}">.*?</tr>', page(engine), re.DOTALL)
    assert element is not None
    return words(element[0])


def words(html: str) -> str:
    return re.sub(r"(<[^>]+>|\s)+", " ", html)


def messages(engine: EngineProgram, name: str) -> list[str]:
    """Return the text of each recent message on a sink's page, newest first."""
    return [words(found).strip() for found in re.findall(r'<tr id="message-.*?</tr>', page(engine, f"/sinks/{name}"), re.DOTALL)]


def message_ids(engine: EngineProgram, name: str) -> list[str]:
    return re.findall(r'<tr id="message-([^"]+)"', page(engine, f"/sinks/{name}"))


def insert(database: psycopg.Connection[Any], count: int = 1) -> None:
    database.execute("insert into notifications (user_id, message) select 1, 'x' from generate_series(1, %s)", (count,))


def test_without_sinks_the_page_says_so(engine: EngineProgram) -> None:
    assert "There are no sinks yet." in page(engine)


def test_a_sink_shows_what_it_owes_and_has_delivered(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    insert(database, 12)
    receiver.wait_for(12)
    eventually(lambda: re.search(r"healthy [\d.,]+/s 12 0 0 0", row(engine, "all")))
    assert engine.config["slot"] in page(engine)


def test_pause_and_resume_by_form(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    answer = press(engine, "/sinks/all", "pause", find="a l", state="idle")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?find=a+l&state=idle")
    assert engine.ask("GET", "/api/sinks/all")["status"] == "paused"
    insert(database)
    eventually(lambda: re.search(r"paused [\d.]+/s 0 1 0 0", row(engine, "all")))
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
    eventually(lambda: re.search(r"failing .* 0 1 1 0 .*Unexpected status code: 503", row(engine, "bad")))
    assert re.findall(r'<tr id="sink-.*?/sinks/([^"]+)"', page(engine)) == ["bad", "a-good", "c-good"]
    assert "Unexpected status code: 503" in page(engine, "/sinks/bad")


def test_a_sink_with_a_failed_message_behind_delivered_ones_is_retrying(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    receiver.script = lambda _, messages: 500 if messages[0]["record"]["id"] == 1 else 200
    engine.sink("all", receiver.url)
    insert(database, 2)
    receiver.wait_for(1)
    eventually(lambda: insert(database) or re.search(r" retrying [\d.]+/s \d+ 1 1 0", row(engine, "all")))


def test_the_filter_works_without_script(engine: EngineProgram, receiver: Receiver) -> None:
    for name in ("ada", "adam", "bob"):
        engine.sink(name, receiver.url)
    filtered = page(engine, "/?find=ADA")
    assert re.findall(r'<tr id="sink-.*?/sinks/([^"]+)"', filtered) == ["ada", "adam"]
    assert "2 of 3 sinks" in filtered
    assert "sink has “&lt;b&gt;” in its name" in page(engine, "/?find=%3Cb%3E")
    assert re.findall(r'<tr id="sink-.*?/sinks/([^"]+)"', page(engine, "/?state=idle&find=bob")) == ["bob"]
    assert "No sink is failing now." in page(engine, "/?state=failing")


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
        ({"do": "redeliver", "csrf": "right"}, {}, 400),
        ({"do": "redeliver discarded", "csrf": "right"}, {}, 400),
        ({"do": "redeliver", "csrf": "right", "message": "<b>"}, {}, 404),
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
    engine.endpoint("e", receiver.url + "/in/s3cret?key=s3cret", **secrets)
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
    assert f"{receiver.url}/in/••••?••••" in html
    assert "s3cret" not in page(engine)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script>alert" not in html
    shown = page(engine, "/sinks/all?show=url")
    assert f"{receiver.url}/in/s3cret?key=s3cret" in shown
    assert shown.count("s3cret") == 2  # only in the URL


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
        assert f'">{becomes}</span>' in page(engine, "/sinks/all")
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


def test_what_was_given_up_is_listed_and_sent_again_some_or_all(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    receiver.script = lambda *_: 500
    engine.sink("all", receiver.url, max_retry_count=1)
    insert(database, 4)
    eventually(lambda: re.search(r"failing [\d.]+/s 0 0 0 4", row(engine, "all")))
    ids = eventually(lambda: len(found := re.findall(r'<tr id="discarded-(\d+)"', page(engine, "/sinks/all"))) == 4 and found)
    assert "Unexpected status code: 500" in page(engine, "/sinks/all")
    receiver.script = lambda *_: 200
    assert press(engine, "/sinks/all", "redeliver discarded", message=ids[:2]).status_code == 303
    receiver.wait_for(2)
    assert re.findall(r'<tr id="discarded-(\d+)"', page(engine, "/sinks/all")) == ids[2:]
    assert press(engine, "/sinks/all", "redeliver all", find="").headers["location"] == "/"
    receiver.wait_for(4)
    eventually(lambda: re.search(r"healthy [\d.]+/s 4 0 0 0", row(engine, "all")))


def test_recent_messages_show_answer_latency_and_attempts(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    answers = iter([503, 503, 200])
    receiver.script = lambda *_: next(answers, 204)
    engine.sink("all", receiver.url)
    assert "No messages since the engine started." in page(engine, "/sinks/all")
    insert(database)
    eventually(lambda: re.search(r"insert public.notifications 1 200 OK (&lt; 1|[\d,]+) ms 3 ", " ".join(messages(engine, "all"))))
    insert(database)
    eventually(lambda: len(messages(engine, "all")) == 2)
    assert re.search(r"insert public.notifications 2 204 No Content .*ms 1 ", messages(engine, "all")[0])
    [_, first] = message_ids(engine, "all")
    opened = words(page(engine, f"/sinks/all?message={first}"))
    assert re.search(r"200 OK .* 503 Service Unavailable .* 503 Service Unavailable", opened)


def test_a_failed_message_shows_its_error_and_cannot_be_redelivered(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    receiver.close()
    engine.sink("all", receiver.url)
    insert(database)
    eventually(lambda: messages(engine, "all") and "error the connection was refused" in messages(engine, "all")[0])
    answer = press(engine, "/sinks/all", "redeliver", message=message_ids(engine, "all"))
    assert answer.status_code == 409
    assert "not delivered yet" in answer.text


def test_the_body_of_a_message_is_shown_on_demand_as_it_was_sent(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    database.execute("insert into notifications (user_id, message) values (1, '<script>alert(1)</script>')")
    receiver.wait_for(1)
    eventually(lambda: messages(engine, "all"))
    assert "alert" not in page(engine, "/sinks/all").partition("<main>")[2].partition("</main>")[0]
    [id_] = message_ids(engine, "all")
    html = page(engine, f"/sinks/all?message={id_}")
    body = re.search(r"<pre [^>]*>(.*?)</pre>", html, re.DOTALL)
    assert body is not None
    assert json.loads(unescape(re.sub(r"<[^>]+>", "", body[1]))) == json.loads(receiver.requests[0].body)
    assert "<script>alert" not in html
    assert unescape(id_) == receiver.messages()[0]["metadata"]["idempotency_key"]
    assert "does not keep that message any more" in page(engine, "/sinks/all?message=%3Cb%3E")


def test_delivered_messages_are_redelivered_one_or_many(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    insert(database, 3)
    receiver.wait_for(3)
    eventually(lambda: len(messages(engine, "all")) == 3)
    oldest, _, newest = (message["metadata"]["idempotency_key"] for message in sorted(receiver.messages(), key=lambda m: m["record"]["id"]))
    answer = press(engine, "/sinks/all", "redeliver", message=[newest], opened=newest)
    assert answer.headers["location"] == f"/sinks/all?message={quote(newest)}"
    receiver.wait_for(4)
    press(engine, "/sinks/all", "redeliver", message=[newest, oldest])
    receiver.wait_for(6)
    assert receiver.ids()[3] == 3
    assert set(receiver.ids()[4:]) == {1, 3}
    assert receiver.messages()[3]["metadata"]["idempotency_key"] == newest
    eventually(lambda: re.search(r"healthy [\d.]+/s 6 0 0 0", row(engine, "all")))


def test_a_body_that_the_current_settings_cannot_render_says_why(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    insert(database)
    receiver.wait_for(1)
    eventually(lambda: messages(engine, "all"))
    code = 'def transform(_action, record, _changes, _metadata) do\n  String.length(record["gone"])\nend'
    yaml = f"functions:\n  - {{name: broken, type: transform, code: {json.dumps(code)}}}\n"
    engine.ask("POST", "/api/config/apply", {"yaml": yaml})
    engine.ask("PATCH", "/api/sinks/all", {"transform": "broken"})
    html = page(engine, f"/sinks/all?message={message_ids(engine, 'all')[0]}")
    assert "current settings cannot render this message" in html


def test_a_redelivered_message_must_still_pass_the_filter_and_the_sink_must_be_enabled(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    insert(database)
    receiver.wait_for(1)
    eventually(lambda: messages(engine, "all"))
    [id_] = message_ids(engine, "all")
    engine.ask("PATCH", "/api/sinks/all", {"actions": ["delete"]})
    assert press(engine, "/sinks/all", "redeliver", message=id_).status_code == 303
    eventually(lambda: re.search(r" 1 0 0 0", row(engine, "all")))
    engine.ask("PATCH", "/api/sinks/all", {"actions": ["insert"]})
    insert(database)
    receiver.wait_for(2)
    assert receiver.ids() == [1, 2]
    engine.sink("other", receiver.url)
    engine.ask("PATCH", "/api/sinks/all", {"status": "disabled"})
    assert press(engine, "/sinks/all", "redeliver", message=id_).status_code == 409


def test_a_busy_sinks_page_shows_the_last_fifty_messages_and_still_opens_one_that_has_gone(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    engine.sink("all", receiver.url)
    insert(database)
    receiver.wait_for(1)
    eventually(lambda: messages(engine, "all"))
    [shown] = message_ids(engine, "all")
    insert(database, 200)
    receiver.wait_for(201)
    eventually(lambda: re.search(r"healthy [\d.,]+/s 201 0 0 0", row(engine, "all")))
    assert len(messages(engine, "all")) == 50
    assert shown not in message_ids(engine, "all")
    assert "&#34;id&#34;" in page(engine, f"/sinks/all?message={shown}")
    assert press(engine, "/sinks/all", "redeliver", message=shown).status_code == 303
    assert receiver.wait_for(202)[-1]["record"]["id"] == 1


def test_of_a_large_row_the_body_is_not_kept(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    engine.sink("all", receiver.url)
    database.execute("insert into notifications (user_id, message) values (1, repeat('x', 100000))")
    receiver.wait_for(1)
    eventually(lambda: messages(engine, "all"))
    [id_] = message_ids(engine, "all")
    assert "larger than 8 kB" in page(engine, f"/sinks/all?message={id_}")
    assert press(engine, "/sinks/all", "redeliver", message=id_).status_code == 409


def test_a_row_of_a_backfill_is_shown_and_redelivered(engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver) -> None:
    insert(database)
    engine.sink("all", receiver.url)
    engine.ask("POST", "/api/sinks/all/backfills", {})
    receiver.wait_for(1)
    eventually(lambda: messages(engine, "all") and "read public.notifications 1 200 OK" in messages(engine, "all")[0])
    press(engine, "/sinks/all", "redeliver", message=unescape(message_ids(engine, "all")[0]))
    first, again = receiver.wait_for(2)
    assert first == again


def test_user_and_idle_state_are_shown(engine: EngineProgram, receiver: Receiver) -> None:
    engine.user_sink(42, receiver.url)
    assert re.search(r"user-42 user 42 \S+ idle 0/s 0 0 0 0", row(engine, "user-42"))
    assert re.search(r'<span class="badge idle">idle', page(engine, "/sinks/user-42"))


def test_counts_and_their_start_survive_a_stop_and_a_kill(
    engine: EngineProgram, database: psycopg.Connection[Any], receiver: Receiver
) -> None:
    receiver.script = lambda _, messages: 500 if len(receiver.requests) == 0 else 200
    engine.sink("all", receiver.url)
    insert(database, 5)
    receiver.wait_for(5)
    engine.stop()
    engine.start()
    assert re.search(r"idle 0/s 5 0 0 0", row(engine, "all"))
    since = re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d UTC", page(engine, "/sinks/all"))
    assert since is not None
    assert re.search(r"Failed attempts 1 of 6", words(page(engine, "/sinks/all")))
    insert(database, 2)
    receiver.wait_for(7)
    eventually(lambda: saved_counts(engine) == [(8, 7, 1)])
    engine.kill()
    engine.start()
    assert re.search(r"idle 0/s 7 0 0 0", row(engine, "all"))
    assert since[0] in page(engine, "/sinks/all")
    engine.ask("DELETE", "/api/sinks/all")
    assert saved_counts(engine) == []


def saved_counts(engine: EngineProgram) -> list[tuple[int, int, int]]:
    """Return the counts in the store: attempted, delivered, failed."""
    with closing(sqlite3.connect(engine.config["store"])) as store:
        return store.execute("select attempted, delivered, failed from counts").fetchall()


def test_the_top_of_the_page_shows_the_parts_of_the_stack_and_leads_to_the_inspector(
    database_url: str, database: psycopg.Connection[Any], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        parts = {
            "postgres": f"postgres://{database.info.host}:{database.info.port}",
            "sequin": "http://127.0.0.1:1",
            "server": f"http://127.0.0.1:{free_port()}",
            "inspector": f"https://127.0.0.1:{port}",
        }
        inspector = {"url": f"http://127.0.0.1:{port}/", "token": "the inspector's"}
        engine = EngineProgram(database_url, tmp_path, publication=PUBLICATION, parts=parts, inspector=inspector).start()
        try:
            assert "postgres running sequin running server down inspector running" in words(page(engine))
            answer = httpx.get(f"{engine.url}/inspector", headers=bearer(engine))
            link = answer.headers["location"]
            assert (answer.status_code, link.startswith(f"http://127.0.0.1:{port}/?token=")) == (303, True)
            assert "inspector's" not in unquote(link)
            assert httpx.get(f"{engine.url}/inspector").status_code == 401
        finally:
            engine.stop()


def test_without_a_stack_there_is_no_inspector(engine: EngineProgram) -> None:
    assert "/inspector" not in page(engine).partition("<main>")[0]
    assert "There is no inspector." in page(engine, "/inspector", 404)


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
