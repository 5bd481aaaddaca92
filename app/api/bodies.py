"""Request bodies: read before the endpoint runs, up to a limit."""

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.errors import MAX_BODY_BYTES, BodyCutOffError, BodyTooLargeError


async def with_body(request: Request) -> Request:
    """The request with its body read. Raises `BodyTooLargeError`, `BodyCutOffError`."""
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        raise BodyTooLargeError
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:  # in chunks, so its length was not known
            raise BodyTooLargeError
        return message

    read = Request(request.scope, receive)
    try:
        await read.body()  # which FastAPI asks for next
    except ClientDisconnect:
        raise BodyCutOffError from None
    return read
