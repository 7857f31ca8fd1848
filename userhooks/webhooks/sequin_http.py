"""HTTP calls to Sequin's Management API: token, retries, and error messages. `sequin_client.py` has the calls themselves.

Tokens, encrypted headers, and the answers of `config/apply`, which contain database passwords, are neither logged nor shown in errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import yaml

from userhooks.errors import START, ConfigurationError, SequinFailed, SequinInvalid, SequinNotFound, SequinUnauthorized, SequinUnreachable

T = TypeVar("T")

_EXTENSIONS = {"timeout": httpx.Timeout(15.0, connect=5.0).as_dict()}
_PAUSES_S = (0.1, 0.4)  # Before the second and third try of a GET or DELETE. A POST is never retried, because it may have succeeded.
_WORTH_ANOTHER_TRY = frozenset({502, 503, 504})


class SequinHttp:
    """An HTTP client for the server at `url`, with an API token.

    GET and DELETE are tried three times if the connection breaks or a proxy answers 502, 503, or 504.
    """

    def __init__(
        self, url: str, token: str, *, transport: httpx.BaseTransport | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if not (token.isascii() and token.isprintable()):
            raise ConfigurationError("SEQUIN_API_TOKEN holds characters that no token has.", "Copy it again from Sequin's console.")
        self.url = url
        self._sleep = sleep
        self._headers = {"Accept": "application/json", "Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        # Proxies set in the environment are ignored, because only Sequin may see the token. An httpx.Client, with cookies, redirects, and
        # hooks, would take twice as long per call as a transport, and removing the load users takes 20,000 calls.
        self._transport = transport or httpx.HTTPTransport(trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def one(self, read: Callable[[Mapping[str, Any]], T], method: str, path: str, body: Any = None, *, accept: str | None = None) -> T:
        """Make a call and return its parsed answer; raises SequinFailed if `read` cannot parse it."""
        data = self.call(method, path, body, accept=accept)
        try:
            return read(data)
        except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError):
            raise _not_sequin(method, path) from None

    def all(self, read: Callable[[Mapping[str, Any]], T], path: str) -> list[T]:
        """Return a list of resources."""
        return self.one(lambda data: [read(entry) for entry in data["data"]], "GET", path)

    def delete(self, path: str) -> bool:
        """Delete a resource and return whether it existed."""
        try:
            self.call("DELETE", path)
        except SequinNotFound:
            return False
        return True

    def call(self, method: str, path: str, body: Any = None, *, accept: str | None = None) -> dict[str, Any]:
        """Make a call and return the JSON object in its answer; `body` is sent as JSON."""
        pauses = (*_PAUSES_S, None) if method in ("GET", "DELETE") else (None,)
        headers = {**self._headers, "Accept": accept} if accept else self._headers
        for pause in pauses:
            try:
                request = httpx.Request(method, f"{self.url}{path}", json=body, headers=headers, extensions=_EXTENSIONS)
                response = self._transport.handle_request(request)
                _hang_up_after_an_error(response)
                response.read()
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if pause is None or isinstance(error, httpx.ReadTimeout | httpx.UnsupportedProtocol | httpx.InvalidURL):
                    raise self._unreachable(error) from None
            else:
                if pause is None or response.status_code not in _WORTH_ANOTHER_TRY:
                    return _read(response, method, path)
            self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _unreachable(self, error: Exception) -> SequinUnreachable:
        reason = str(error) or type(error).__name__
        return SequinUnreachable(f"Sequin at {self.url} does not answer: {reason}.", f"{START}; or correct SEQUIN_URL.")


class _LastAnswer(httpx.SyncByteStream):
    """A response body of a known length. Reading stops there, before its end is seen, so the connection is closed rather than reused."""

    def __init__(self, body: httpx.SyncByteStream, length: int) -> None:
        self._body = body
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        left = self._length
        parts = iter(self._body)
        while left > 0:
            part = next(parts)
            left -= len(part)
            yield part

    def close(self) -> None:
        self._body.close()


def _hang_up_after_an_error(response: httpx.Response) -> None:
    """Close the connection after an error: Sequin 0.14.6 sometimes sends a second answer, which the next call would read."""
    length = response.headers.get("content-length")  # every recorded answer has it
    if response.is_error and length is not None and isinstance(response.stream, httpx.SyncByteStream):
        response.stream = _LastAnswer(response.stream, int(length))


def api_path(*parts: str) -> str:
    """Return the path of a resource, with each part quoted."""
    return "/api/" + "/".join(quote(part, safe="") for part in parts)


def _read(response: httpx.Response, method: str, path: str) -> dict[str, Any]:
    """Return the JSON object of a successful answer, or raise the error of a failed one."""
    status = response.status_code
    try:
        data = response.json()
    except ValueError:
        data = None
    if response.is_success:
        if isinstance(data, dict):
            return data
        raise _not_sequin(method, path)
    summary, fields = _explanation(data)
    said = f"{method} {path} ({status}): {summary or response.reason_phrase}"
    if status == 401:
        remedy = "Set SEQUIN_API_TOKEN to a token of this server (its console lists them)."
        raise SequinUnauthorized("Sequin refused the API token.", remedy, status=status)
    if status == 404:
        raise SequinNotFound(f"Sequin does not know what was asked for. {said}", "Is it listed in Sequin's console?", status=status)
    if 400 <= status < 500:
        raise SequinInvalid(f"Sequin refused {said}", "Correct what it names and try again.", status=status, validation_errors=fields)
    if status >= 500:
        raise SequinFailed(f"Sequin failed at {said}", "Look at Sequin's log, and try again.", status=status)
    raise _not_sequin(method, path)


def _explanation(data: Any) -> tuple[str, dict[str, Any]]:
    """Return the text of an error body, including its flattened validation errors, and the validation errors themselves."""
    if not isinstance(data, dict):
        return "", {}
    detail = data.get("errors")
    summary = data.get("summary") or data.get("reason") or (detail.get("detail") if isinstance(detail, dict) else "")
    fields = data.get("validation_errors")
    fields = fields if isinstance(fields, dict) else {}
    return "; ".join([str(summary or "").strip(), *_flatten(fields)]), fields


def _flatten(errors: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Turn `{"sink": {"path": ["is bad"]}}` into `["sink.path is bad"]`."""
    lines: list[str] = []
    for key, value in errors.items():
        if isinstance(value, dict):
            lines += _flatten(value, f"{prefix}{key}.")
        else:
            lines += [f"{prefix}{key} {message}" for message in (value if isinstance(value, list) else [value])]
    return lines


def _not_sequin(method: str, path: str) -> SequinFailed:
    return SequinFailed(f"The answer to {method} {path} is not Sequin's.", "Does SEQUIN_URL name a Sequin server, without a path?")
