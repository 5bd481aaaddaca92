"""Who may come in: API keys, the callback's secret token, and the networks that may call back."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.errors import ForbiddenError, UnauthorizedError
from app.settings import ApiKey, Network, Role

Address = IPv4Address | IPv6Address

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="A key from `DLR_API_KEYS`. Roles: `read`, `send`, `admin`, each containing the "
    "ones before.",
)
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def known_key(keys: Iterable[ApiKey], presented: str) -> ApiKey | None:
    """The key that was presented. Compares with all, so time tells nothing of any."""
    digest = sha256(presented.encode("latin-1", "replace")).digest()
    found = None
    for key in keys:
        if compare_digest(key.digest, digest):
            found = key
    return found


def _check(request: Request, credentials: HTTPAuthorizationCredentials | None, role: Role) -> None:
    if credentials is None:
        raise UnauthorizedError
    key = known_key(request.app.state.settings.api_keys, credentials.credentials)
    if key is None:
        raise UnauthorizedError
    request.state.key_name = key.name
    if key.role < role:
        raise ForbiddenError(f"this needs a key of role {role.name.lower()}")


async def reader(request: Request, credentials: _Credentials) -> None:
    """Let in keys of any role."""
    _check(request, credentials, Role.READ)


async def sender(request: Request, credentials: _Credentials) -> None:
    """Let in keys of role send or admin."""
    _check(request, credentials, Role.SEND)


async def administrator(request: Request, credentials: _Credentials) -> None:
    """Let in keys of role admin."""
    _check(request, credentials, Role.ADMIN)


async def metrics_reader(request: Request, credentials: _Credentials) -> None:
    """Let in keys of any role, or everybody where the settings say so."""
    if not request.app.state.settings.metrics_public:
        _check(request, credentials, Role.READ)


def known_token(tokens: Iterable[bytes], presented: bytes) -> int | None:
    """Which token it is. Compares with all of them, each in constant time."""
    found = None
    for position, token in enumerate(tokens):
        if compare_digest(token, presented):
            found = position
    return found


def caller_address(
    peer: str | None, forwarded_for: Sequence[bytes], trusted_proxies: Sequence[Network]
) -> Address | None:
    """Who really called, or None where that can't be said.

    `X-Forwarded-For` is believed as far as trusted proxies wrote it: from the right, up to and
    including the first address that isn't one of them. What stands further left is hearsay.
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
