"""Checks of API keys, of the callback's secret token, and of the networks that may call back."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest
from ipaddress import IPv4Address, IPv6Address, ip_address

from app.settings import ApiKey, Network

Address = IPv4Address | IPv6Address


def known_key(keys: Iterable[ApiKey], presented: str) -> ApiKey | None:
    """Find the presented key. Compares with every key, so that the time taken reveals none."""
    digest = sha256(presented.encode("latin-1", "replace")).digest()
    found = None
    for key in keys:
        if compare_digest(key.digest, digest):
            found = key
    return found


def known_token(tokens: Iterable[bytes], presented: bytes) -> int | None:
    """The position of the presented token. Compares with every token, each in constant time."""
    found = None
    for position, token in enumerate(tokens):
        if compare_digest(token, presented):
            found = position
    return found


def caller_address(
    peer: str | None, forwarded_for: Sequence[bytes], trusted_proxies: Sequence[Network]
) -> Address | None:
    """The caller's own address; None if a trusted proxy wrote something else than an address.

    Reads `X-Forwarded-For` from the right, past trusted proxies, up to the first address that
    isn't one of them. Anything further left is the caller's own claim, which proves nothing.
    """
    address = _address(peer or "")
    chain = [hop.strip() for hop in b",".join(forwarded_for).decode("latin-1").split(",")]
    hops = [hop for hop in chain if hop]
    while address is not None and hops and is_in(address, trusted_proxies):
        address = _address(hops.pop())
    return address


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _address(text: str) -> Address | None:
    # Some proxies add the port: `192.0.2.1:4711`, `[2001:db8::1]:4711`.
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A dual-stack socket shows IPv4 callers as ::ffff:192.0.2.1.
    return getattr(address, "ipv4_mapped", None) or address
