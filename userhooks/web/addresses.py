"""Which addresses webhooks may be sent to, decided without I/O: checks of one resolved IP address, and of a URL that a user entered.

`engine/delivery/http_client.py` resolves names and checks every address here before it connects. An entered URL is refused early if its
address is known without a name server. An accepted URL may still have a host name that resolves to a forbidden address.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from userhooks.errors import InvalidInput

MAX_URL_LENGTH = 2000

_NUMBER = re.compile(r"0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*")
_EXAMPLE = "Use a URL like https://example.com/hooks/1"


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(part) for part in text.split())


_LOOPBACK_AND_PRIVATE = _networks("127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 ::1/128 fc00::/7")

# Metadata services of AWS, Google, Oracle, and Scaleway, which return credentials. These addresses are in the private network fc00::/7; the
# services' IPv4 addresses are not in a private network.
_METADATA = _networks("fd00:ec2::254/128 fd20:ce::254/128 fd00:c1::a9fe:a9fe/128 fd00:42::42/128")

# The IANA special-purpose registries, plus 168.63.129.16 (Azure's host), 2002::/16 and fec0::/10. `ipaddress.is_global` and `is_private`
# each miss more than a third of these networks, so they are listed here.
_FORBIDDEN = _networks(
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
    "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 "
    "224.0.0.0/4 240.0.0.0/4 "
    "::/8 100::/64 100:0:0:1::/64 2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 "
    "ff00::/8"
)

_IPV4_INSIDE = _networks("::ffff:0:0/96 64:ff9b::/96")


def forbidden(address: str, *, allow_private: bool) -> bool:
    """Return whether webhooks must not be sent to this IP address, given as the resolver writes it (`203.0.113.7`, `fe80::1%eth0`).

    `allow_private` permits loopback and private networks (RFC 1918, RFC 4193), except for the metadata addresses of cloud providers.
    An IPv4 address inside an IPv6 one (mapped, NAT64) is checked as IPv4. Text that is not an IP address is forbidden.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return True
    if isinstance(ip, IPv6Address):
        ip = _ipv4_inside(ip)
    if allow_private and _is_in(ip, _LOOPBACK_AND_PRIVATE):
        return _is_in(ip, _METADATA)
    return _is_in(ip, _FORBIDDEN)


def _ipv4_inside(ip: IPv6Address) -> IPv4Address | IPv6Address:
    return IPv4Address(int(ip) & 0xFFFFFFFF) if _is_in(ip, _IPV4_INSIDE) else ip


def _is_in(ip: IPv4Address | IPv6Address, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    # Compare numbers, because `fe80::1%eth0 in network` is false for every network.
    return any(net.version == ip.version and int(net.network_address) <= int(ip) <= int(net.broadcast_address) for net in networks)


def known_address(host: str) -> str | None:
    """Return the IPv4 address of a host that can be resolved without a name server, or None for any other host.

    Such a host is an IPv4 address in any form that resolvers accept, `localhost`, or a name below it. For example, `127.1`, `0x7f000001`,
    `2130706433`, `0177.0.0.1` (see inet_aton(3)), and `app.localhost` are all 127.0.0.1.
    """
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return "127.0.0.1"
    parts = name.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    *first, last = [int(part, 16 if part.startswith("0x") else 8 if part.startswith("0") else 10) for part in parts]
    if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        return None
    return str(IPv4Address(sum(number << 8 * (3 - place) for place, number in enumerate(first)) + last))


def check_webhook_url(url: object, *, allow_private: bool) -> str:
    """Return `url` unchanged if webhooks can be sent to it; otherwise, raise InvalidInput for the field `webhookUrl`.

    The rules are Sequin's for the scheme, host, and port of an HTTP endpoint. They are stricter where Sequin silently drops or misreads a
    part: user and password, spaces, and characters outside ASCII. A host whose address is known without a name server must not be
    `forbidden`. The addresses of other names are checked at each connection.
    """
    if not isinstance(url, str) or not url:
        raise InvalidInput("webhookUrl", "webhookUrl must be a string containing a URL.", _EXAMPLE)
    if len(url) > MAX_URL_LENGTH:
        raise InvalidInput("webhookUrl", f"webhookUrl is longer than {MAX_URL_LENGTH} characters.", "Use a shorter URL.")
    if not re.fullmatch(r"[!-~]+", url):
        remedy = "Percent-encode them, or use the xn-- form of a host name outside ASCII."
        raise InvalidInput("webhookUrl", "webhookUrl contains spaces, control characters, or characters outside ASCII.", remedy)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInput("webhookUrl", "webhookUrl has no valid host and port.", _EXAMPLE) from None
    if parts.scheme not in ("http", "https"):
        raise InvalidInput("webhookUrl", "webhookUrl must begin with http:// or https://.", _EXAMPLE)
    if parts.username is not None or parts.password is not None:
        remedy = "Leave them out: each webhook has the subscription's secret in its Authorization header."
        raise InvalidInput("webhookUrl", "webhookUrl contains a user name or password, which would not be sent.", remedy)
    if not parts.hostname:
        raise InvalidInput("webhookUrl", "webhookUrl has no host.", _EXAMPLE)
    if not re.fullmatch(r"[a-zA-Z0-9.-]+", parts.hostname):
        remedy = "Sequin accepts only letters, digits, dots, and hyphens: no underscores and no IPv6 addresses."
        raise InvalidInput("webhookUrl", f"webhookUrl has an invalid host name: {parts.hostname}.", remedy)
    if port == 0:
        raise InvalidInput("webhookUrl", "webhookUrl has port 0.", "Use a port from 1 to 65535, or leave it out.")
    address = known_address(parts.hostname)
    if address is not None and forbidden(address, allow_private=allow_private):
        remedy = "Use the address of a server on the internet."
        if not forbidden(address, allow_private=True):
            remedy += " Loopback and private addresses are refused because USERHOOKS_PRIVATE_ADDRESSES is forbid."
        raise InvalidInput("webhookUrl", "webhookUrl points to a forbidden address.", remedy)
    return url
