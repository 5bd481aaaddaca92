"""Access by API key: a key has a role, and each endpoint needs one."""

from typing import Final

from fastapi import Request
from fastapi.security import HTTPBearer

from app.api.parts import parts_of
from app.errors import ForbiddenError, UnauthorizedError
from app.guards import known_key
from app.settings import ApiKey, Role

bearer: Final = HTTPBearer(
    auto_error=False,
    # The name is a key of the OpenAPI document, where a space makes the document invalid.
    scheme_name="bearer",
    description="A key from `DLR_API_KEYS`. Roles: `read`, `send`, `admin`, each containing the "
    "ones before.",
)


async def require(request: Request, role: Role) -> None:
    """Check the request's key for this role. Raises `UnauthorizedError`, `ForbiddenError`."""
    credentials = await bearer(request)
    if credentials is None:
        raise UnauthorizedError
    key = known_key(parts_of(request).settings.api_keys, credentials.credentials)
    if key is None:
        raise UnauthorizedError
    request.state.key = key
    if key.role < role:
        raise ForbiddenError(f"this needs a key of role {role.name.lower()}")


def key_name_of(request: Request) -> str:
    """The name of the key that `require` has accepted."""
    key: ApiKey = request.state.key
    return key.name
