"""Where a webhook may go, decided without any I/O: the verdict on one resolved IP address, and the form of a webhook URL.

Resolving names and connecting live in `engine/http.py`, which asks here for every address before each connection: a text like `127.1` or
`0x7f000001` only shows what it is after resolution, so a URL's text never decides about its address.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from userhooks.errors import InvalidInput

MAX_URL_LENGTH = 2000

_EXAMPLE = "Give an address like https://example.com/hooks/1"


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(part) for part in text.split())


_LOOPBACK_AND_PRIVATE = _networks("127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 ::1/128 fc00::/7")

# The IANA special-purpose registries, plus 168.63.129.16 (Azure's host), 2002::/16 and fec0::/10. `ipaddress.is_global` and `is_private`
# each let a good third of these through, hence an own list.
_FORBIDDEN = _networks(
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
    "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 "
    "224.0.0.0/4 240.0.0.0/4 "
    "::/8 100::/64 100:0:0:1::/64 2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 "
    "ff00::/8"
)

_IPV4_INSIDE = _networks("::ffff:0:0/96 64:ff9b::/96")


def forbidden(address: str, *, allow_private: bool) -> bool:
    """Say whether webhooks must not be sent to this IP address, as the resolver wrote it (`203.0.113.7`, `fe80::1%eth0`).

    `allow_private` lets loopback and private networks (RFC 1918, RFC 4193) through, and nothing else: a cloud's metadata address stays
    forbidden. An IPv4 address inside an IPv6 one (mapped, NAT64) gets its own verdict; what is no IP address is forbidden.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return True
    if isinstance(ip, IPv6Address):
        ip = _ipv4_inside(ip)
    if allow_private and _is_in(ip, _LOOPBACK_AND_PRIVATE):
        return False
    return _is_in(ip, _FORBIDDEN)


def _ipv4_inside(ip: IPv6Address) -> IPv4Address | IPv6Address:
    return IPv4Address(int(ip) & 0xFFFFFFFF) if _is_in(ip, _IPV4_INSIDE) else ip


def _is_in(ip: IPv4Address | IPv6Address, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    # The numbers are compared, since `fe80::1%eth0 in network` is false whatever the network is.
    return any(net.version == ip.version and int(net.network_address) <= int(ip) <= int(net.broadcast_address) for net in networks)


def check_webhook_url(url: object) -> str:
    """Return `url` unchanged when it can be the target of webhooks, else raise InvalidInput for the field `webhookUrl`.

    The rules are Sequin's (scheme, host and port of an HTTP endpoint), made stricter where Sequin drops or mistakes a part in silence:
    user and password, spaces, characters outside ASCII. Nothing is resolved: which address the name leads to is judged at each connection.
    """
    if not isinstance(url, str) or not url:
        raise InvalidInput("webhookUrl", "webhookUrl must be a URL in a string.", _EXAMPLE)
    if len(url) > MAX_URL_LENGTH:
        raise InvalidInput("webhookUrl", f"webhookUrl is longer than {MAX_URL_LENGTH} characters.", "Give a shorter address.")
    if not re.fullmatch(r"[!-~]+", url):
        remedy = "Percent-encode them; a host name outside ASCII needs its xn-- form."
        raise InvalidInput("webhookUrl", "webhookUrl holds spaces, control characters or characters outside ASCII.", remedy)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInput("webhookUrl", "webhookUrl has no valid host and port.", _EXAMPLE) from None
    if parts.scheme not in ("http", "https"):
        raise InvalidInput("webhookUrl", "webhookUrl must begin with http:// or https://.", _EXAMPLE)
    if parts.username is not None or parts.password is not None:
        remedy = "Leave them out: each webhook carries the subscription's secret in its Authorization header."
        raise InvalidInput("webhookUrl", "webhookUrl holds a user name or password, which would not be sent.", remedy)
    if not parts.hostname:
        raise InvalidInput("webhookUrl", "webhookUrl has no host.", _EXAMPLE)
    if not re.fullmatch(r"[a-zA-Z0-9.-]+", parts.hostname):
        remedy = "Sequin takes letters, digits, dots and hyphens only: no underscore, and no IPv6 address."
        raise InvalidInput("webhookUrl", f"webhookUrl has a host that is no valid host name: {parts.hostname}.", remedy)
    if port == 0:
        raise InvalidInput("webhookUrl", "webhookUrl has port 0.", "Give a port from 1 to 65535, or none.")
    return url
