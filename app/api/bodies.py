"""Read a request's body before its endpoint runs, up to a limit."""

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.errors import MAX_BODY_BYTES, BodyTooLargeError, MalformedRequestError


async def with_body(request: Request) -> Request:
    """Read the body, and return a request that holds it.

    Raises `BodyTooLargeError` without reading the rest, and `MalformedRequestError`.
    """
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        raise BodyTooLargeError
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:  # chunks announce no length
            raise BodyTooLargeError
        return message

    read = Request(request.scope, receive)
    try:
        await read.body()  # the request keeps it for FastAPI
    except ClientDisconnect:
        raise MalformedRequestError("the body was cut off") from None
    return read
