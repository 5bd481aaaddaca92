"""Read a database's URL as people write it, and show one without its password."""

import re
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

POSTGRESQL: Final = "postgresql+psycopg"
# libpq takes these in the query too.
SECRETS_IN_QUERY: Final = ("password", "sslpassword", "oauth_client_secret")


def parse(text: str) -> URL:
    """Parse the URL. Raises `ValueError` with a message that repeats no part of it."""
    if text.startswith("postgres"):
        _refuse_another_at_sign(text)
        _refuse_several_hosts(text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError("is not a database URL") from None
    if url.drivername in {"postgres", "postgresql"}:
        url = url.set(drivername=POSTGRESQL)
    if url.drivername not in {"sqlite", POSTGRESQL}:
        raise ValueError("must begin with sqlite:/// or postgresql+psycopg://")
    if url.drivername == "sqlite" and (
        not url.database or url.database == ":memory:" or url.host or url.query
    ):
        raise ValueError("must name a file and nothing else, as in sqlite:///var/dlr.db")
    if url.drivername == POSTGRESQL and url.username is None and "@" in text:
        raise ValueError("has an `@` that ends no user and password: give it as %40")
    return url if url.drivername == "sqlite" else _with_a_port_for_each_host(url)


def _with_a_port_for_each_host(url: URL) -> URL:
    """One port is that of all hosts, as libpq has it; SQLAlchemy wants one for each."""
    hosts, ports = (",".join(url.normalized_query.get(name, ())) for name in ("host", "port"))
    if hosts and ports and "," not in ports:
        url = url.update_query_dict({"port": ",".join([ports] * len(hosts.split(",")))})
    try:
        url.get_dialect()().create_connect_args(url)
    except ArgumentError:
        raise ValueError(
            "has a port that is no number, or another number of ports than of hosts"
        ) from None
    return url


def shown(url: URL) -> str:
    """The URL with `***` for its password, wherever it is."""
    hidden = {name: "***" for name in SECRETS_IN_QUERY if name in url.query}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def _refuse_another_at_sign(text: str) -> None:
    # The password would end at the first, and its rest be taken for the host, and logged.
    if text.count("@") > 1:
        raise ValueError("has more than one `@`: in the password, give `@` as %40 and `/` as %2F")


def _refuse_several_hosts(text: str) -> None:
    hosts = re.split("[/?]", text.partition("://")[2].rpartition("@")[2])[0]
    if "," in hosts:
        # SQLAlchemy would take the last one's port for all, or no port at all.
        raise ValueError(
            "has several hosts: give them as `?host=a,b`, and their ports as `&port=5432,5433`"
        )
