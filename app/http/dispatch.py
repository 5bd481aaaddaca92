"""Requests that are answered beside the router, by a table of shortcuts.

The router's way to an endpoint costs several times what a callback or a lookup by id costs. A
shortcut shares authentication, errors and the log line with the endpoint that it stands for.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.api.failures import answer_to
from app.exchange import Handler, Reply, Request


class Shortcut(NamedTuple):
    """`handler_of` gives None for a request that the router should answer."""

    prefix: str
    handler_of: Callable[[Request], Handler | None]


def handler_of(shortcuts: Sequence[Shortcut], request: Request) -> Handler | None:
    """The handler that answers this request beside the router, if there is one."""
    for shortcut in shortcuts:
        if request.path.startswith(shortcut.prefix):
            return shortcut.handler_of(request)
    return None


def run(handler: Handler, request: Request, reply: Reply) -> None:
    """Let the handler answer. Log and answer its failure as the router would."""
    try:
        handler(request, reply)
    except Exception as error:  # noqa: BLE001 - it is answered
        reply(answer_to(error))
