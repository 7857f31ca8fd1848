"""Which addresses are allowed, and which webhook URLs are valid. No test connects to an address."""

from __future__ import annotations

import random
import socket

import pytest

from userhooks.errors import InvalidInput
from userhooks.web.addresses import check_webhook_url, forbidden, known_address

PRIVATE = ["127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "::1", "fc00::1", "fdff::1"]
PRIVATE_IN_IPV6 = ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::c0a8:101"]
NEVER = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "100.64.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "192.0.0.1",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::7f00:1",
    "64:ff9b:1::1",
    "64:ff9b::a9fe:a9fe",
    "::ffff:169.254.169.254",
    "100::1",
    "100:0:0:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2620:4f:8000::1",
    "3fff::1",
    "5f00::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
METADATA = ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42"]
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "192.169.0.1", "100.128.0.1", "223.255.255.255", "2606:4700:4700::1111", "::ffff:8.8.8.8"]
NO_ADDRESS = ["", "localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "１２７.0.0.1", "8.8.8.8 ", "[::1]"]


@pytest.mark.parametrize("address", [*PRIVATE, *PRIVATE_IN_IPV6, *NEVER, *NO_ADDRESS])
def test_forbidden_without_the_allowance(address: str) -> None:
    assert forbidden(address, allow_private=False)


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("allow_private", [False, True])
def test_the_metadata_addresses_of_clouds_are_always_forbidden(address: str, allow_private: bool) -> None:
    assert forbidden(address, allow_private=allow_private)


@pytest.mark.parametrize("address", [*PRIVATE, *PRIVATE_IN_IPV6, *PUBLIC])
def test_the_allowance_opens_loopback_and_private_networks(address: str) -> None:
    assert not forbidden(address, allow_private=True)


@pytest.mark.parametrize("address", [*NEVER, *NO_ADDRESS])
def test_the_allowance_opens_nothing_else(address: str) -> None:
    assert forbidden(address, allow_private=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_open(address: str) -> None:
    assert not forbidden(address, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://webhook.site/your-unique-url",
        "http://127.0.0.1:3334/in/abc",
        "HTTP://Example.COM:65535/a/b?c=d&e=%20#f",
        "http://x",
        "https://xn--bcher-kva.example/",
        "http://example.com/" + "a" * 1981,
    ],
)
def test_a_good_url_comes_back_unchanged(url: str) -> None:
    assert check_webhook_url(url, allow_private=True) == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, "must be a string containing a URL"),
        (7, "must be a string containing a URL"),
        ("", "must be a string containing a URL"),
        ("http://example.com/" + "a" * 1982, "longer than 2000"),
        ("http://example.com/a b", "spaces"),
        ("http://example.com/\n", "spaces"),
        ("http://bücher.example/", "outside ASCII"),
        ("example.com/hook", "begin with http:// or https://"),
        ("not-a-url", "begin with http:// or https://"),
        ("ftp://example.com/", "begin with http:// or https://"),
        ("javascript:alert(1)", "begin with http:// or https://"),
        ("http://", "no host"),
        ("http:///path", "no host"),
        ("http://:80/", "no host"),
        ("http://user:hunter2@example.com/", "user name or password"),
        ("http://user@example.com/", "user name or password"),
        ("http://my_service:8000/", "invalid host name"),
        ("http://[::1]:80/", "invalid host name"),
        ("http://[::1/", "no valid host and port"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com:65536/", "no valid host and port"),
        ("http://example.com:http/", "no valid host and port"),
        ("http://example.com\\@evil.example/", "user name or password"),
        ("http://exa%6dple.com/", "invalid host name"),
    ],
)
def test_a_bad_url_gets_one_clear_error_that_names_the_field(url: object, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_webhook_url(url, allow_private=True)
    assert caught.value.field == "webhookUrl"
    assert "webhookUrl" in caught.value.what
    assert says in caught.value.what
    assert caught.value.remedy
    assert "hunter2" not in str(caught.value)


# --- URLs whose address is known without a name server ---------------------------------------------------------------------

LOOPBACK_HOSTS = [
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "0X7F.1",
    "2130706433",
    "0177.0.0.1",
    "127.0.0.1.",
    "localhost",
    "LocalHost.",
    "a.localhost",
]
FORBIDDEN_HOSTS = [
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "169.254.43518",
    "0.0.0.0",  # noqa: S104
    "0",
    "224.0.0.1",
    "255.255.255.255",
    "100.100.100.200",
]
OTHER_HOSTS = [
    "example.com",
    "127.0.0.1.example.com",
    "localhost.example.com",
    "08.0.0.1",
    "127.0.0.256",
    "1.2.3.4.5",
    "0x",
    "a-1",
    "metadata",
]


@pytest.mark.parametrize("host", [*FORBIDDEN_HOSTS, "8.8.8.8", "1.1", *LOOPBACK_HOSTS, *OTHER_HOSTS])
@pytest.mark.parametrize("allow_private", [False, True])
def test_a_url_is_refused_when_its_host_is_known_to_be_forbidden(host: str, allow_private: bool) -> None:
    url = f"http://{host}:8080/hook"
    if host in FORBIDDEN_HOSTS or (host in LOOPBACK_HOSTS and not allow_private):
        with pytest.raises(InvalidInput, match="webhookUrl points to a forbidden address") as caught:
            check_webhook_url(url, allow_private=allow_private)
        assert host not in caught.value.what
        assert ("USERHOOKS_PRIVATE_ADDRESSES" in caught.value.remedy) == (host in LOOPBACK_HOSTS)
    else:
        assert check_webhook_url(url, allow_private=allow_private) == url


def test_numbers_are_read_as_the_resolver_reads_them() -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    dice = random.Random(seed)
    forms = [str, hex, lambda n: f"0{n:o}", lambda n: f"0X{n:X}"]
    for _ in range(3000):
        count = dice.randrange(1, 6)
        numbers = [
            dice.choice([0, 1, 127, 255, 256, 65535, 65536, 2**24 - 1, 2**24, 2**32 - 1, 2**32, dice.randrange(2**33)])
            for _ in range(count)
        ]
        host = ".".join(dice.choice(forms)(number) for number in numbers)
        try:
            expected = socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            expected = None
        assert known_address(host) == expected, host
