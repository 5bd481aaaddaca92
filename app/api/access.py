"""Access by API key: each endpoint depends on one of these, by the role that it needs."""

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.api.parts import parts_of
from app.errors import ForbiddenError, UnauthorizedError
from app.guards import known_key
from app.settings import Role

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="A key from `DLR_API_KEYS`. Roles: `read`, `send`, `admin`, each containing the "
    "ones before.",
)
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def _check(request: Request, credentials: HTTPAuthorizationCredentials | None, role: Role) -> None:
    if credentials is None:
        raise UnauthorizedError
    key = known_key(parts_of(request).settings.api_keys, credentials.credentials)
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
    if not parts_of(request).settings.metrics_public:
        _check(request, credentials, Role.READ)
