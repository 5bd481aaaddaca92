"""`paasoo-dlr check URL`: call back as PaaSoo would, look the report up, and see it removed.

Each step finds one kind of fault, and the first fault ends the check: what comes after it can't be
known.
"""

import time
from collections.abc import Iterator, Mapping
from secrets import token_hex
from typing import Any, Final
from urllib.parse import SplitResult, urlencode, urlsplit

import httpx2

from app.callback.door import PATH as CALLBACK_PATH
from app.callback.parse import CODES
from app.commands import reach
from app.commands.findings import Finding, Level, error, ok, show, warning
from app.commands.reach import UnreachableError
from app.errors import PROBLEM_TYPE
from app.reports import CHECK_PREFIX, TEST_NUMBER
from app.settings import SettingsError, load_settings

WIDTH: Final = len("connection")
TIMEOUT_S: Final = 10
# A sibling platform of PaaSoo's wants its callbacks answered within 3 s.
SLOW_S: Final = 2
# The report is in the database when it is answered, but for an outage that has just ended.
FOUND_WITHIN_S: Final = 4
# The service removes a check within 8 s, unless its periodic work is busy.
REMOVED_WITHIN_S: Final = 30
PAUSE_S: Final = 0.5

# The service's own refusals of a lookup, by their code.
LOOKUP_FAULTS: Final = {
    "unauthorized": "the service doesn't know the key in DLR_CHECK_KEY",
    "forbidden": "the key in DLR_CHECK_KEY may not look messages up: it needs the role `read`",
    "message_not_found": "acknowledged, but not found. Does another service, with another "
    "database, answer /v1/ here? Or does a proxy answer callbacks by itself? Look at /readyz",
    "database_unavailable": "the service's database is away, and the report waits in its spool: "
    "look at /readyz there",
}
# Those that may pass by themselves.
PASSING: Final = frozenset({"message_not_found", "database_unavailable"})

# Answers of something else than the service, by their status.
EXEMPT: Final = "Exempt the paths of the service"
PROXY_FAULTS: Final = {
    200: "perhaps a login page. Let it pass the path on to the service",
    401: f"it wants a login, which PaaSoo doesn't have. {EXEMPT}",
    403: f"a firewall, perhaps. {EXEMPT}",
    404: "it doesn't pass this path on to the service",
    407: f"it wants a login, which PaaSoo doesn't have. {EXEMPT}",
    429: f"it limits the number of requests. {EXEMPT}",
    **dict.fromkeys(
        (502, 503, 504), "it can't reach the service. Does `serve` run, and is its address right?"
    ),
}

CACHE_HEADERS: Final = ("x-cache", "cf-cache-status", "x-cache-status", "x-proxy-cache")
SEND_IT_AGAIN: Final = "PaaSoo may never send such a report again"


def check(address: str) -> int:
    """Print what is found. Returns the exit code."""
    settings = load_settings()
    key = settings.check_key
    findings = _findings(_parse(address), key.get_secret_value() if key else None)
    return show(findings, WIDTH)


def _parse(address: str) -> SplitResult:
    """The callback address. Raises `SettingsError`."""
    try:
        url = urlsplit(address.strip())
        is_address = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        is_address = False
    if not is_address or not address.strip().isascii() or url.username is not None:
        raise SettingsError("URL: must be an http or https address")
    if url.query or url.fragment or CALLBACK_PATH not in url.path:
        raise SettingsError(
            f"URL: must be the callback address, as PaaSoo has it: https://HOST{CALLBACK_PATH}/TOKEN"
        )
    return url


def _findings(url: SplitResult, key: str | None) -> Iterator[Finding]:
    assert url.hostname
    context = httpx2.create_ssl_context()
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        addresses = reach.resolve(url.hostname, port)
        yield reach.judge_addresses(url.hostname, addresses)
        address, found = reach.connect_to_each(addresses, port)
        yield from found
        if url.scheme == "https":
            yield reach.judge_tls(url.hostname, address, port, context)
        else:
            yield warning("tls", "none: the token, and the key, cross the network in the clear")
    except UnreachableError as unreachable:
        yield unreachable.finding
        return
    with httpx2.Client(
        verify=context,
        trust_env=False,
        follow_redirects=False,
        timeout=TIMEOUT_S,
        # A server may close a kept connection just as it is used again.
        limits=httpx2.Limits(max_keepalive_connections=0),
    ) as http:
        message_id = f"{CHECK_PREFIX}{token_hex(8)}"
        is_stored = False
        for finding in _call_back(http, url, message_id):
            yield finding
            is_stored |= finding.what == "storage" and finding.level is not Level.ERROR
        if is_stored:
            yield from _look_up(http, url, message_id, key)


def _call_back(http: httpx2.Client, url: SplitResult, message_id: str) -> Iterator[Finding]:
    query = urlencode(
        {
            "type": "dlr",
            "messageid": message_id,
            "to": TEST_NUMBER,
            "status": 0,
            "statuscode": "delivered",
            "errcode": 1,
        }
    )
    began = time.monotonic()
    try:
        answer = http.get(f"{url.geturl().strip()}?{query}")
    except httpx2.TimeoutException:
        yield error("answer", f"none within {TIMEOUT_S} s. {SEND_IT_AGAIN}")
        return
    except httpx2.HTTPError as failure:
        yield error("answer", f"none, but {_in_words(failure)}. {SEND_IT_AGAIN}")
        return
    took_s = time.monotonic() - began
    if took_s > SLOW_S:
        yield warning("answer", f"after {took_s:.1f} s, and PaaSoo may wait no longer than 3")
    yield from _judge(answer)


def _judge(answer: httpx2.Response) -> Iterator[Finding]:
    """The meaning of the callback's answer, step by step."""
    code = _code_of(answer)
    strange = _of_a_cache(answer) or (None if _is_ours(answer, code) else _of_a_proxy(answer))
    if strange is not None:
        yield error("proxy", strange)
        return
    if code in CODES:
        yield error(
            "proxy",
            f"what arrives isn't what was sent ({code}): a proxy changes the query. It is in the"
            " quarantine of the service: delete it there",
        )
        return
    if code in {"method_not_allowed", "query_too_long"}:
        yield error("proxy", f"what arrives isn't what was sent ({code}): a proxy changes it")
        return
    yield ok("proxy", "the service itself answers")
    yield from _judge_ours(answer, code)


def _judge_ours(answer: httpx2.Response, code: str | None) -> Iterator[Finding]:
    if code == "not_found":
        yield error(
            "token",
            "wrong, or missing: none of the service's DLR_CALLBACK_TOKENS is in this address",
        )
        return
    yield ok("token", "known")
    if code == "forbidden":
        yield error(
            "networks",
            "the caller's address is not in DLR_CALLBACK_ALLOWED_NETWORKS. If it is this machine's,"
            " add it, or check from elsewhere; if a proxy's, name that in DLR_TRUSTED_PROXIES",
        )
        return
    yield ok(
        "networks", "this machine may call back; PaaSoo's own addresses can't be tried from here"
    )
    if code == "unavailable":
        words = "refused with 503: the report could not be put on disk. Look at /readyz and the log"
        yield error("storage", words)
        return
    if code is not None:
        yield error("answer", f"refused with {answer.status_code} ({code}): look at the log")
        return
    yield ok("storage", "answered 200: the report is on disk")


def _look_up(
    http: httpx2.Client, url: SplitResult, message_id: str, key: str | None
) -> Iterator[Finding]:
    """Look the report up until it is found, and then until it is gone."""
    if key is None:
        yield warning("lookup", "not made, as DLR_CHECK_KEY is not set: give it a key that reads")
        return
    prefix = url.path[: url.path.index(CALLBACK_PATH)]
    address = url._replace(path=f"{prefix}/v1/messages/{message_id}").geturl()
    headers = {"Authorization": f"Bearer {key}"}
    found = _judge_lookup(_get(http, address, headers))
    give_up_at = time.monotonic() + FOUND_WITHIN_S
    while found.level is Level.WARNING and time.monotonic() < give_up_at:
        time.sleep(PAUSE_S)
        found = _judge_lookup(_get(http, address, headers))
    yield found._replace(level=Level.ERROR) if found.level is Level.WARNING else found
    if found.level is not Level.OK:
        return
    give_up_at = time.monotonic() + REMOVED_WITHIN_S
    while time.monotonic() < give_up_at:
        time.sleep(PAUSE_S)
        if _code_of(_get(http, address, headers)) == "message_not_found":
            yield ok("removal", "nothing is left of it")
            return
    yield error(
        "removal",
        f"still there after {REMOVED_WITHIN_S} s. The service removes it once its periodic work has"
        " time; a version that is older than `check` never does",
    )


def _get(
    http: httpx2.Client, address: str, headers: Mapping[str, str]
) -> httpx2.Response | httpx2.HTTPError:
    try:
        return http.get(address, headers=headers)
    except httpx2.HTTPError as failure:
        return failure


def _judge_lookup(answer: httpx2.Response | httpx2.HTTPError) -> Finding:
    """A warning if the next try may find it."""
    if isinstance(answer, httpx2.HTTPError):
        return error("lookup", f"not answered: {_in_words(answer)}")
    code = _code_of(answer)
    if code in LOOKUP_FAULTS:
        judge = warning if code in PASSING else error
        return judge("lookup", LOOKUP_FAULTS[code])
    if answer.status_code == 200 and _has_deliveries(answer):
        return ok("lookup", "found")
    return error("lookup", f"{_of_a_proxy(answer)}. Systems of yours that look up here need it")


def _has_deliveries(answer: httpx2.Response) -> bool:
    document = _json_of(answer)
    return isinstance(document, dict) and bool(document.get("deliveries"))


def _is_ours(answer: httpx2.Response, code: str | None) -> bool:
    return code is not None or (answer.status_code == 200 and answer.content == b"OK")


def _code_of(answer: httpx2.Response | httpx2.HTTPError) -> str | None:
    """The code of a problem document, which none but the service answers with, or nearly so."""
    if isinstance(answer, httpx2.HTTPError):
        return None
    if not answer.headers.get("content-type", "").startswith(PROBLEM_TYPE):
        return None
    document = _json_of(answer)
    code = document.get("code") if isinstance(document, dict) else None
    return code if isinstance(code, str) else None


def _json_of(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _of_a_cache(answer: httpx2.Response) -> str | None:
    hit = any("hit" in answer.headers.get(name, "").lower() for name in CACHE_HEADERS)
    if hit or answer.headers.get("age", "0") != "0":
        return "the answer comes from a cache: let the proxy cache nothing under /callback/"
    return None


def _of_a_proxy(answer: httpx2.Response) -> str:
    """What to do about an answer that isn't the service's."""
    status = answer.status_code
    kind = answer.headers.get("content-type", "no type").partition(";")[0]
    who = f"not the service but something in front of it answers {status} ({kind})"
    if 300 <= status < 400:
        target = urlsplit(answer.headers.get("location", ""))
        where = f"{target.scheme}://{target.netloc}" if target.netloc else "another path there"
        return f"{who}, a redirect to {where}, and PaaSoo may not follow it: give it the target"
    return f"{who}: {PROXY_FAULTS.get(status, 'let it pass the path on to the service')}"


def _in_words(failure: httpx2.HTTPError) -> str:
    # Its text has neither the address nor the key, but may be empty.
    return f"{type(failure).__name__} {failure}".strip()
