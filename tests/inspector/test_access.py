"""Access to the inspector's pages and API requires the home's token, even from this machine; webhooks do not."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import httpx
import pytest

from tests.inspector.program import TOKEN, Program, running
from userhooks.inspector.client import InspectorClient

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """An inspector that listens on all addresses of the machine."""
    with running(tmp_path_factory.mktemp("inspector"), bind="0.0.0.0") as program:  # noqa: S104
        yield program


@pytest.fixture
def stranger(everywhere: Program) -> Iterator[httpx.Client]:
    """A client that connects to another address, and claims in its Host header to be local."""
    headers = {"Host": f"localhost:{everywhere.port}"}
    with httpx.Client(base_url=f"http://127.0.0.2:{everywhere.port}", headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def ident(everywhere: Program) -> str:
    """The id of an inbox with one webhook."""
    inbox = httpx.post(f"{everywhere.url}/api/inboxes", json={"name": "ada"}, headers=BEARER, trust_env=False).json()
    httpx.post(inbox["url"], content=b"s3cret", trust_env=False)
    return str(inbox["id"])


@pytest.mark.parametrize("path", ["/", "/inboxes/{}", "/api/inboxes", "/api/inboxes/{}", "/api/inboxes/{}/requests", "/nothing"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Cookie": f"userhooks={TOKEN}"}])
def test_a_stranger_who_claims_to_be_local_reads_nothing(stranger: httpx.Client, ident: str, path: str, headers: dict[str, str]) -> None:
    answer = stranger.get(path.format(ident), headers=headers)
    assert answer.status_code == 401
    assert "s3cret" not in answer.text
    assert ident not in answer.text


def test_a_stranger_changes_nothing_and_hears_nothing(stranger: httpx.Client, ident: str) -> None:
    assert stranger.post("/api/inboxes", json={"name": "eve"}).status_code == 401
    assert stranger.put(f"/api/inboxes/{ident}/response", json={"script": [{"status": 500}]}).status_code == 401
    assert stranger.post(f"/api/inboxes/{ident}/requests/1/send", json={"inbox": ident}).status_code == 401
    assert stranger.delete(f"/api/inboxes/{ident}/requests").status_code == 401
    assert stranger.get(f"/api/inboxes/{ident}/events").status_code == 401
    assert stranger.get(f"/api/inboxes/{ident}/requests.ndjson").status_code == 401
    assert [inbox["name"] for inbox in stranger.get("/api/inboxes", headers=BEARER).json()["inboxes"]] == ["ada"]
    assert stranger.get(f"/api/inboxes/{ident}/requests", headers=BEARER).json()["requests"]


def test_webhooks_and_the_health_check_need_no_token(stranger: httpx.Client, ident: str) -> None:
    assert stranger.post(f"/in/{ident}/below", content=b"x").status_code == 200
    assert stranger.get("/health").status_code == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "token"])
def test_a_program_sends_the_token(stranger: httpx.Client, ident: str, scheme: str) -> None:
    answer = stranger.get(f"/api/inboxes/{ident}/requests", headers={"Authorization": f"{scheme} {TOKEN}"})
    assert answer.json()["requests"][0]["body"] == "s3cret"


def test_two_authorization_headers_are_refused(everywhere: Program) -> None:
    twice = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer wrong")]
    assert httpx.get(f"{everywhere.url}/api/inboxes", headers=twice, trust_env=False).status_code == 401


@pytest.mark.parametrize(("accept", "kind"), [("text/html,*/*;q=0.8", "text/html; charset=utf-8"), ("*/*", "application/json")])
def test_a_refusal_says_what_to_run(stranger: httpx.Client, accept: str, kind: str) -> None:
    answer = stranger.get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"], answer.headers["www-authenticate"]) == (401, kind, "Bearer")
    text = html.unescape(answer.text) if kind.startswith("text/html") else answer.json()["error"]
    for phrase in ("userhooks inbox", "userhooks status", "print(inbox.page)", "Authorization: Bearer"):
        assert phrase in text


def browser() -> httpx.Client:
    """Return a client that keeps cookies, follows redirects, and accepts HTML."""
    return httpx.Client(headers={"Accept": "text/html"}, follow_redirects=True, trust_env=False)


@pytest.mark.parametrize("query", ["", "&a=b+c&d=%2F"])
def test_a_link_lets_a_browser_in_and_leaves_no_token_in_its_address(everywhere: Program, ident: str, query: str) -> None:
    with InspectorClient(everywhere.url, TOKEN) as client, browser() as reader:
        link = client.inbox("ada").page
        assert TOKEN not in link
        page = reader.get(link + query)
        assert (page.status_code, "Inspector" in page.text) == (200, True)
        assert str(page.url) == f"{everywhere.url}/inboxes/{ident}" + query.replace("&", "?", 1)
        (redirect,) = page.history
        assert redirect.status_code == 303
        assert redirect.headers["referrer-policy"] == "no-referrer"
        assert redirect.headers["cache-control"] == "no-store"
        assert reader.get(f"{everywhere.url}/api/inboxes/{ident}/requests").json()["requests"][0]["body"] == "s3cret"
        with reader.stream("GET", f"{everywhere.url}/api/inboxes/{ident}/events") as events:
            assert events.headers["content-type"].startswith("text/event-stream")
            assert "retry" in next(events.iter_text())


def test_the_cookie_is_hidden_from_scripts_from_other_sites_and_from_other_ports(everywhere: Program) -> None:
    with InspectorClient(everywhere.url, TOKEN) as client, browser() as reader:
        (redirect,) = reader.get(client.inbox("ada").page).history
        name, _, rest = redirect.headers["set-cookie"].partition("=")
        value, *attributes = rest.split("; ")
        assert name == f"userhooks-{everywhere.port}"
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(attributes)
        assert TOKEN not in value
        assert httpx.get(f"{everywhere.url}/api/inboxes", headers={"Authorization": f"Bearer {value}"}, trust_env=False).status_code == 401
        assert httpx.get(f"{everywhere.url}/?token={value}", trust_env=False).status_code == 401


def test_the_token_itself_works_in_a_link_too(everywhere: Program) -> None:
    with browser() as reader:
        page = reader.get(f"{everywhere.url}/?token={TOKEN}")
        assert (page.status_code, str(page.url)) == (200, f"{everywhere.url}/")


def test_an_old_link_works_in_a_browser_that_was_let_in_and_in_no_other(everywhere: Program) -> None:
    with InspectorClient(everywhere.url, TOKEN) as client, browser() as reader:
        link = client.inbox("ada").page
        old = re.sub(r"token=\d+", "token=1", link)
        refused = reader.get(old)
        assert refused.status_code == 401
        assert "This link has expired" in refused.text
        reader.get(link)
        assert reader.get(old).status_code == 200


def test_a_link_leads_to_no_other_host(everywhere: Program) -> None:
    with InspectorClient(everywhere.url, TOKEN) as client:
        token = client.inbox("ada").page.partition("?")[2]
    for path in (b"//evil.example/", b"/\\evil.example/", b"///evil.example"):
        url = httpx.URL(everywhere.url).copy_with(raw_path=path + b"?" + token.encode())
        answer = httpx.get(url, trust_env=False)
        assert answer.status_code in (303, 400)
        assert not answer.headers.get("location", "/").startswith(("//", "/\\", "http"))


def test_a_cookie_does_not_let_other_web_pages_write(everywhere: Program, ident: str) -> None:
    with InspectorClient(everywhere.url, TOKEN) as client, browser() as reader:
        reader.get(client.inbox("ada").page)
        url = f"{everywhere.url}/api/inboxes/{ident}/requests"
        for origin in ("http://evil.example", f"http://127.0.0.1:{everywhere.port + 1}", "null"):
            assert reader.delete(url, headers={"Origin": origin}).status_code == 403
        assert reader.delete(url, headers={"Origin": everywhere.url}).status_code == 204


def test_what_a_page_needs_for_its_client_has_no_token_in_its_repr_or_api(everywhere: Program) -> None:
    with InspectorClient(everywhere.url, TOKEN) as client:
        inbox = client.inbox("ada")
        for text in (repr(client), repr(inbox), inbox._repr_html_(), str(client.call("GET", "/api/inboxes"))):
            assert TOKEN not in text
            assert "token" not in text


def test_an_address_for_webhooks_opened_in_a_browser_records_other_cookies_and_not_the_one_that_lets_in(everywhere: Program) -> None:
    with InspectorClient(everywhere.url, TOKEN) as client, browser() as reader:
        inbox = client.inbox("opened")
        reader.get(inbox.page)
        (ours,) = reader.cookies.jar
        for cookie in (f"{ours.name}={ours.value}", f"a=b; {ours.name}={ours.value}; c=d", "e=f"):
            httpx.get(inbox.url, headers={"Cookie": cookie}, trust_env=False)
        assert [dict(received.headers).get("cookie") for received in inbox.received()] == [None, "a=b; c=d", "e=f"]
