"""The parts of a run as the options ask for them, and the parsers of their values."""

import math
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from simulator.behaviours import BEHAVIOURS
from simulator.signatures import key_of
from simulator.traffic import Mix

EVERY: Final = "all"
EXAMPLE: Final = "http://127.0.0.1:8000/"
CALLBACK_EXAMPLE: Final = f"{EXAMPLE}callback/paasoo/TOKEN"


class OptionError(Exception):
    """An option can't be used; the text begins with its name."""


class Kind(StrEnum):
    """The two kinds of account: that of PaaSoo's guide, and that of its public pages."""

    GUIDE = "guide"
    PUBLIC = "public"


class Pushed(StrEnum):
    """The changes that an address is pushed."""

    ALL = "all"
    FINAL = "final"


class Fault(StrEnum):
    """The odd ways to answer a push."""

    FAILS = "fails"
    HANGS = "hangs"
    HANGS_UP = "hangs-up"
    SLOW = "slow"
    GONE = "gone"
    REDIRECTS = "redirects"
    TOO_MANY = "too-many"
    LONG = "long"


@dataclass(frozen=True, slots=True)
class Account:
    """The one account of the send API."""

    kind: Kind
    key: str
    secret: str
    balance: int | None  # recipients that can still be sent to; None: any number
    sends_a_second: float
    allowed: IPv4Network | IPv6Network | None  # callers; None: any


@dataclass(frozen=True, slots=True)
class SendApi:
    """The send API: its listener, its account, and the faults of its answers, as shares."""

    listener: socket.socket
    account: Account
    lost_answers: float
    system_errors: float
    odd_answers: float
    odd_pulls: float
    answer_delay_s: float


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls to the callback address, and their limits."""

    callback: str
    rate: float  # reports a second
    connections: int
    timeout_s: float
    retries: int


@dataclass(frozen=True, slots=True)
class Run:
    """One run: the messages, the calls that report on them, and its end."""

    mix: Mix
    calls: Calls
    send_api: SendApi | None
    messages: int | None
    seconds: float | None

    @property
    def messages_to_invent(self) -> float:
        if self.messages is None:
            return math.inf if self.send_api is None else 0
        return self.messages


@dataclass(frozen=True, slots=True)
class Receiver:
    """The receiver of pushes: its keys, and how it answers."""

    listener: socket.socket
    keys: Sequence[bytes]
    expected: Pushed
    seed: int
    faults: Mapping[Fault, float]  # the share of each
    away: tuple[float, float] | None  # from, to, in seconds after the start
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Check:
    """The API to compare the ledger with."""

    api: str
    key: str
    settle_s: float


def parse_shares(given: Sequence[str]) -> dict[str, float]:
    """The default shares, changed by each given `NAME=WEIGHT` in turn."""
    shares = {name: behaviour.weight for name, behaviour in BEHAVIOURS.items()}
    for item in given:
        name, _, text = item.partition("=")
        if name != EVERY and name not in shares:
            known = ", ".join([EVERY, *shares])
            raise OptionError(f"--share: there is no behaviour {name!r}; there are {known}")
        try:
            weight = float(text)
        except ValueError:
            weight = -1
        if not 0 <= weight < math.inf:
            raise OptionError(f"--share: {name} needs a weight, 0 or more, as in {name}=2.5")
        shares.update(dict.fromkeys(shares if name == EVERY else [name], weight))
    if not any(shares.values()):
        raise OptionError("--share: nothing is left that could happen")
    return shares


def parse_url(option: str, text: str | None, example: str = EXAMPLE) -> str:
    """Check an http or https address. It may hold a secret, so no error repeats it."""
    if not text:
        raise OptionError(f"{option}: is missing; it must be an address as {example}")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "#" in text or not text.isascii() or any(c.isspace() for c in text):
        raise OptionError(f"{option}: must be an address as {example}")
    return text


def parse_network(text: str | None) -> IPv4Network | IPv6Network | None:
    """The addresses that may call the send API."""
    try:
        return None if text is None else ip_network(text)
    except ValueError:
        raise OptionError("--allowed-network: must be a CIDR, as in 192.0.2.0/24") from None


def parse_faults(given: Sequence[str]) -> dict[Fault, float]:
    """The share of each fault, from `NAME=SHARE` or several of them with commas between."""
    shares: dict[Fault, float] = {}
    for item in [item for text in given for item in text.split(",")]:
        name, _, text = item.partition("=")
        if name not in [*Fault]:
            raise OptionError(
                f"--receive-share: there is no way {name!r}; there are {', '.join(Fault)}"
            )
        try:
            share = float(text)
        except ValueError:
            share = -1
        if not 0 <= share <= 1:
            raise OptionError(f"--receive-share: {name} needs a share from 0 to 1, as {name}=0.1")
        shares[Fault(name)] = share
    if sum(shares.values()) > 1:
        raise OptionError("--receive-share: the shares are more than 1 together")
    return shares


def parse_away(text: str | None) -> tuple[float, float] | None:
    """The time to be away, `FROM-TO` in seconds after the start."""
    if text is None:
        return None
    number = r"(\d{1,9}(?:\.\d+)?)"
    found = re.fullmatch(f"{number}-{number}", text, re.ASCII)
    if not found or float(found[1]) >= float(found[2]):
        raise OptionError("--receive-away: must be FROM-TO in seconds, as in 20-80")
    return float(found[1]), float(found[2])


def parse_secrets(given: Sequence[str]) -> list[bytes]:
    """The keys in the secrets of the addresses. No error repeats a secret."""
    if not given:
        raise OptionError("--receive-secret: is missing; POST /v1/webhooks shows it, once")
    try:
        return [key_of(secret) for secret in given]
    except ValueError as error:
        raise OptionError(f"--receive-secret: {error}; it must be as whsec_MfKQ9r8G") from None


def open_listener(option: str, address: str) -> socket.socket:
    """Listen on `HOST:PORT`; port 0 takes a free one."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise OptionError(f"{option}: must be HOST:PORT, as in 127.0.0.1:8055")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=512)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise OptionError(f"{option}: can't listen on {address}: {why}") from None


def address_of(listener: socket.socket) -> str:
    """The `HOST:PORT` of a listener."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ledger_path(path: Path, *, overwrite: bool) -> Path:
    """Refuse a file that exists, unless it may be overwritten."""
    if path.exists() and not overwrite:
        raise OptionError(
            f"--ledger: {path} is there already; --force overwrites it."
            " To compare it again, give --check without a callback (unset DLR_SIMULATOR_CALLBACK)"
        )
    return path
