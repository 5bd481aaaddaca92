"""uvicorn's ASGI cycle, extended for HTTP/1.0 and for clients that close their half."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

DISCONNECT: Final[ASGIReceiveEvent] = {"type": "http.disconnect"}


class Cycle(RequestResponseCycle):
    """One request for the application, and its response.

    `closes` is true once the response has said that the connection ends with it. The protocol then
    closes it, later than uvicorn would: a client that is still sending must read its answer first.
    """

    message_event: asyncio.Event

    def __init__(self, is_last: Callable[[], bool], **options: Any) -> None:
        super().__init__(**options)
        self.closes = False
        self._is_last = is_last
        self._is_half_closed = False
        self._was_delivered = False
        self._heard_of_end = False
        self._has_length = True

    def leave(self) -> None:
        """Stop answering: the client has gone, or gets another answer."""
        self.disconnected = True
        self.waiting_for_100_continue = False
        self.message_event.set()

    def half_close(self) -> None:
        """The client sends nothing more, but may still read."""
        self._is_half_closed = True
        self.message_event.set()

    async def receive(self) -> ASGIReceiveEvent:
        message = DISCONNECT
        if not (self._was_delivered and self._is_half_closed):
            message = await super().receive()
        if message["type"] == "http.request":
            if not self._was_delivered:
                self._was_delivered = not message["more_body"]
                return message
            message = DISCONNECT  # woken by the end of the client's half
        self._heard_of_end = True
        if self.response_started and not self.response_complete:
            self._break_off()
        return message

    def _break_off(self) -> None:
        """The application, told that the client has left, stops its stream without an end."""
        self.disconnected = True
        self.transport.close()

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] != "http.response.start":
            if not self._has_length and message["type"] == "http.response.body":
                self.expected_content_length = len(message.get("body", b""))
            await super().send(message)
            if self._heard_of_end and not self.response_complete:
                self._break_off()
            return
        if self.scope["http_version"] == "1.0":
            self._has_length = any(
                name == b"content-length" for name, _ in message.get("headers", ())
            )
            self.chunked_encoding = None if self._has_length else False  # HTTP/1.0 has no chunks
        if self._is_last():
            self.keep_alive = False
        await super().send(message)
        self.closes, self.keep_alive = not self.keep_alive, True
