"""The sockets that `serve` listens on: its own, or those that systemd keeps open for it.

Sources: sd_listen_fds(3), systemd.socket(5).
"""

import errno
import os
import socket
from contextlib import ExitStack
from typing import Final

from app.settings import Settings, SettingsError

# The kernel's queue of connections to accept. It turns away a burst of callbacks that overflows it.
BACKLOG: Final = 2048
# The kernel's buffer for a client that doesn't read. By default it grows to megabytes per client.
UNREAD_BYTES: Final = 128 * 1024

FIRST_GIVEN: Final = 3  # SD_LISTEN_FDS_START
OF_SYSTEMD: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def listen(settings: Settings) -> list[socket.socket]:
    """Sockets of our own, one for every address that the host's name resolves to."""
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        addresses = {(family, address) for family, _, _, _, address in found}
        return [
            _prepared(
                socket.create_server(
                    address, family=family, backlog=BACKLOG, dualstack_ipv6=address[0] == "::"
                )
            )
            for family, address in sorted(addresses)
        ]
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"DLR_HOST, DLR_PORT: can't listen on {settings.host} port {settings.port}: {why}"
        ) from None


def given_by_systemd() -> list[socket.socket]:
    """The sockets that were passed to this very process, if there are any.

    Raises `SettingsError` if one can't be served on. No process that we start hears of them.
    """
    pid, number, names, _ = (os.environ.pop(name, "") for name in OF_SYSTEMD)
    if pid != str(os.getpid()):
        return []  # they were for a parent of ours
    if not number.isdecimal():
        raise SettingsError("LISTEN_FDS: must be a number, as systemd sets it")
    name_of = dict(enumerate(names.split(":")))
    with ExitStack() as opened:
        given = [
            opened.enter_context(_adopt(FIRST_GIVEN + position, name_of.get(position)))
            for position in range(int(number))
        ]
        opened.pop_all()  # every one can be served on, so leave them open
    return given


def _adopt(descriptor: int, name: str | None) -> socket.socket:
    shown = f"descriptor {descriptor} ({name})" if name else f"descriptor {descriptor}"
    try:
        given = socket.socket(fileno=descriptor)
    except OSError as error:
        kind = "no socket" if error.errno == errno.ENOTSOCK else "not open"
        raise SettingsError(f"LISTEN_FDS: {shown} is {kind}") from None
    if given.family not in {socket.AF_INET, socket.AF_INET6} or not _listens(given):
        given.close()
        raise SettingsError(f"LISTEN_FDS: {shown} is no TCP socket that listens")
    given.set_inheritable(False)
    return _prepared(given)


def _listens(given: socket.socket) -> bool:
    return given.type == socket.SOCK_STREAM and bool(
        given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )


def _prepared(listener: socket.socket) -> socket.socket:
    # Accepted connections inherit this.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
    return listener
