"""The way to an address: its name, a connection to each of its addresses, and TLS."""

import socket
import ssl
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from app.commands.findings import Finding, counted, error, ok, warning

CONNECT_TIMEOUT_S: Final = 5
# Authorities that renew by themselves do so 30 days before the end.
FEW_DAYS: Final = 14
DAY_S: Final = 86_400

SIGNER_UNKNOWN: Final = (
    "has a signer that isn't known here: let it come with its whole chain, or get one from a "
    "public authority"
)
# Of OpenSSL's codes (x509_vfy.h), those whose remedy differs.
CERTIFICATE_FAULTS: Final = {
    9: "is not valid yet: look at the clocks",
    10: "has expired: renew it, and look why that didn't happen by itself",
    18: "is signed by itself, and PaaSoo knows no such signer: get one from a public authority",
    19: SIGNER_UNKNOWN,
    20: SIGNER_UNKNOWN,
    21: SIGNER_UNKNOWN,
    62: "is for another name: get one for this name",
    64: "is for another address: get one for this address, or use a name",
}


class UnreachableError(Exception):
    """The address can't be reached, so nothing more can be found out. `finding` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.words)
        self.finding = finding


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises `UnreachableError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as failure:
        why = getattr(failure, "strerror", None) or failure
        raise UnreachableError(
            error("name", f"{host} has no address ({why}): look at its DNS record")
        ) from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def judge_addresses(host: str, addresses: Sequence[str]) -> Finding:
    shown = ", ".join(addresses)
    words = shown if addresses == [host] else f"{host} is {shown}"
    own = [it for it in addresses if not _ip_of(it).is_global]
    if own:
        what = "this machine itself" if _ip_of(own[0]).is_loopback else "of a private network"
        return warning("name", f"{words}: PaaSoo can't reach {own[0]}, which is {what}")
    return ok("name", words)


def _ip_of(address: str) -> IPv4Address | IPv6Address:
    return ip_address(address.partition("%")[0])


def connect_to_each(addresses: Sequence[str], port: int) -> tuple[str, list[Finding]]:
    """The first address that takes a connection, and what was found. Raises `UnreachableError`."""
    failures = {it: why for it in addresses if (why := _why_unreachable(it, port)) is not None}
    reached = [it for it in addresses if it not in failures]
    told = ", ".join(f"{it} port {port}: {why}" for it, why in failures.items())
    if not reached:
        raise UnreachableError(
            error("connection", f"{told}. Is it running, and does a firewall let it through?")
        )
    if failures:
        advice = "PaaSoo may choose it: make it answer, or take it out of the DNS record"
        return reached[0], [warning("connection", f"{told}. {advice}")]
    return reached[0], [ok("connection", f"port {port} takes them")]


def _why_unreachable(address: str, port: int) -> str | None:
    try:
        socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S).close()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return f"no answer within {CONNECT_TIMEOUT_S} s"
    except OSError as failure:
        return failure.strerror or str(failure)
    return None


def judge_tls(host: str, address: str, port: int, context: ssl.SSLContext) -> Finding:
    """The certificate's days, once it is found valid. Raises `UnreachableError`."""
    try:
        with (
            socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S) as connection,
            context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            certificate = tls.getpeercert() or {}
    except ssl.SSLCertVerificationError as failure:
        fault = CERTIFICATE_FAULTS.get(failure.verify_code, failure.verify_message)
        raise UnreachableError(error("tls", f"its certificate {fault}")) from None
    except ssl.SSLError as failure:
        why = (failure.reason or str(failure)).replace("_", " ").lower()
        words = f"no TLS there ({why}): is this the port of https?"
        raise UnreachableError(error("tls", words)) from None
    except OSError as failure:
        words = f"cut off ({failure.strerror or failure}): is this the port of https?"
        raise UnreachableError(error("tls", words)) from None
    ends_at = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = int((ends_at - time.time()) // DAY_S)
    words = f"its certificate is valid for {counted(days, 'more day')}"
    if days < FEW_DAYS:
        return warning("tls", f"{words}: renew it, and look why that didn't happen by itself")
    return ok("tls", words)
