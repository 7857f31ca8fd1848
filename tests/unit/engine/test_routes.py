"""Routing functions: which results become requests, and which are not valid routes."""

from __future__ import annotations

import pytest

from tests.unit.engine.test_recorded_functions import change, constants
from userhooks.engine.delivery.request_head import request_head
from userhooks.engine.functions import FunctionRaised, parse_route
from userhooks.engine.message_format import Routed
from userhooks.engine.resources import HttpEndpoint


def routed(answer: str) -> Routed:
    """Return the route that a function with this body returns for the recorded row."""
    return parse_route(f"def route(action, record, changes, metadata) do\n{answer}\nend").bind(constants("x"))(change())


@pytest.mark.parametrize(
    ("answer", "route"),
    [
        ("%{}", Routed()),
        ('%{method: "PUT"}', Routed("PUT")),
        ('%{"method" => "DELETE", "endpoint_path" => "/users/#{record["user_id"]}"}', Routed("DELETE", "/users/7")),
        ('%{endpoint_path: ""}', Routed()),
        ("%{endpoint_path: nil, headers: nil}", Routed()),
        ('%{endpoint_path: "a/b"}', Routed("POST", "/a/b")),
        ('%{endpoint_path: "?q=1"}', Routed("POST", "?q=1")),
        ('%{headers: %{"X-B" => 1, a: :yes}}', Routed("POST", "", (("a", "yes"), ("X-B", "1")))),
    ],
)
def test_an_answer_says_how_a_message_is_requested(answer: str, route: Routed) -> None:
    assert routed(answer) == route


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('%{method: "TRACE"}', "method: is invalid, valid values are: GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"),
        ('%{method: "post"}', "method: is invalid"),
        ("%{method: nil}", "method: is invalid"),
        ("%{method: [1]}", "method: is invalid"),
        ('%{path: "/x"}', "unknown_field: path"),
        ('%{:method => "PUT", "method" => "PUT"}', "unknown_field: duplicate key"),
        ("%{endpoint_path: 1}", "endpoint_path: is invalid"),
        ('%{endpoint_path: "http://127.0.0.1:1/x"}', "endpoint_path: must be a path"),
        ('%{endpoint_path: "//127.0.0.1:1/x"}', "endpoint_path: must be a path"),
        ('%{endpoint_path: String.duplicate("/x", 1001)}', "endpoint_path: should be at most 2000 character(s)"),
        ("%{headers: 1}", "headers: is invalid"),
        ('%{headers: %{"a b" => "c"}}', 'headers: "a b" cannot be sent'),
        ('%{headers: %{"a" => "b\\r\\nc: d"}}', 'headers: "a" cannot be sent'),
        ('%{headers: %{"a" => [%{}]}}', "cannot convert the given list to a string"),
        ("nil", "a routing function must return a map, got: nil"),
        ('record["ts"]', "a routing function must return a map, got: ~U[2024-02-29 12:34:56.789000Z]"),
        ('record["t"] + 1', "bad argument in arithmetic expression"),
    ],
)
def test_an_answer_that_is_no_route_raises(answer: str, says: str) -> None:
    with pytest.raises(FunctionRaised) as raised:
        routed(answer)
    assert says in str(raised.value)


def test_a_routes_headers_replace_those_of_the_endpoint_and_its_path_is_joined() -> None:
    endpoint = HttpEndpoint("e", "e", "http", "h.example", 80, "/base/", "k=1", headers={"X-A": "1", "x-b": "2"})
    head, tail, _ = request_head(endpoint, Routed("PUT", "/x y", (("x-A", "3"), ("content-length", "9"))))
    assert head == b"PUT /base/?k=1/x%20y HTTP/1.1\r\ncontent-length: "
    lines = tail.decode().split("\r\n")
    assert "x-a: 3" in lines
    assert "x-b: 2" in lines
    assert not any(line.startswith("content-length") for line in lines)
