"""PaaSoo's send API: one call, and the meaning of its answer. No call is repeated here.

Source: PaaSoo's integration guide, "send SMS". It gives the JSON of an answer but no HTTP status,
so the HTTP status is ignored. The URL contains the account and the text, so no error quotes it.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote, quote_plus, urlencode

import httpx2

from app.reports import is_digits, is_printable_ascii
from app.sending.problems import (
    NotSentError,
    OutcomeUnknownError,
    ProviderBadAnswerError,
    ProviderBadRequestError,
    ProviderRefusedAddressError,
    ProviderRefusedCredentialsError,
    ProviderRestrictedError,
    ProviderUnreachableError,
)

log = logging.getLogger(__name__)

# The guide's table of statuses, without 0.
REFUSALS: Final[dict[int, tuple[type[NotSentError], str]]] = {
    400: (ProviderBadRequestError, "PaaSoo finds the request wrong; nothing was sent"),
    401: (ProviderRefusedCredentialsError, "PaaSoo refuses our account; nothing was sent"),
    403: (
        ProviderRestrictedError,
        "PaaSoo restricts our account (its balance, a black or white list); nothing was sent",
    ),
    404: (ProviderRefusedAddressError, "PaaSoo refuses our IP address; nothing was sent"),
}
ILLEGAL_SECRET: Final = "illegal secret.,"  # noqa: S105 - the guide's example of a `status_code`
MAX_STATUS_CODE_LENGTH: Final = 255
LEAST_TELLING_LENGTH: Final = 4  # shorter secrets occur within many words by chance

MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_MESSAGE_ID_LENGTH: Final = 128

# From the call to the end of the answer; each step has less.
TOTAL_TIMEOUT_S: Final = 15
TIMEOUTS: Final = httpx2.Timeout(10, connect=3, pool=3)
# If PaaSoo closes a connection just as we use it again, the outcome is unknown. So we close idle
# ones before common servers do: the quickest of them, Apache, waits for 5 s.
LIMITS: Final = httpx2.Limits(max_connections=50, max_keepalive_connections=50, keepalive_expiry=4)
# With these, no byte of the request has left. With any other error some may have.
NOTHING_LEFT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class PaasooClient:
    """An account at PaaSoo, and the connections to it."""

    def __init__(self, url: str, key: str, secret: str) -> None:
        self._url = url
        self._account = {"key": key, "secret": secret}
        self._deadlines: set[asyncio.Timeout] = set()
        self._has_given_up = False
        self._http = httpx2.AsyncClient(
            # Find certificates as OpenSSL does, SSL_CERT_FILE included. Ignore a proxy in the
            # environment: it would see the account and the text.
            verify=httpx2.create_ssl_context(),
            trust_env=False,
            follow_redirects=False,
            timeout=TIMEOUTS,
            limits=LIMITS,
            headers={"User-Agent": "paasoo-dlr", "Accept-Encoding": "identity"},
        )

    async def send(self, recipients: Sequence[str], text: str) -> str:
        """Send once, and return PaaSoo's message id.

        Raises `NotSentError` or `PerhapsSentError`.
        """
        if self._has_given_up:
            raise ProviderUnreachableError
        parameters = {**self._account, "to": ",".join(recipients), "text": text}
        try:
            async with self._until_given_up():
                body = await self._get(f"{self._url}?{urlencode(parameters, safe=',')}")
        except NOTHING_LEFT:
            raise ProviderUnreachableError from None
        except Exception as error:  # noqa: BLE001 - after any error, the request may have left
            log.warning("a send was not answered", extra={"error": type(error).__name__})
            raise OutcomeUnknownError from None
        return message_id_of(body, [*self._account.values(), text])

    def give_up(self) -> None:
        """Stop waiting for answers: the process is about to end."""
        self._has_given_up = True
        for deadline in [one for one in self._deadlines if not one.expired()]:
            deadline.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def _until_given_up(self) -> AsyncIterator[None]:
        async with asyncio.timeout(TOTAL_TIMEOUT_S) as deadline:
            self._deadlines.add(deadline)
            try:
                yield
            finally:
                self._deadlines.discard(deadline)

    async def _get(self, url: str) -> bytes:
        """The answer's body, read no further than shows that it is too long."""
        body = b""
        async with self._http.stream("GET", url) as response:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    break
        return body


def message_id_of(body: bytes, secrets: Sequence[str]) -> str:
    """The message id in an answer. Raises `NotSentError` for a refusal, `PerhapsSentError` else."""
    answer = _object(body)
    status, message_id = _status(answer.get("status")), answer.get("messageid")
    if status == 0 and isinstance(message_id, str) and _is_message_id(message_id):
        return message_id
    provider = {"status": status, "status_code": _shown(answer.get("status_code"), secrets)}
    if status in REFUSALS and message_id is None:
        refusal, detail = REFUSALS[status]
        raise refusal(detail, provider=provider)
    raise ProviderBadAnswerError(
        "PaaSoo's answer is not understood; it may have been sent or not", provider=provider
    )


def _object(body: bytes) -> dict[str, Any]:
    """The answer as a JSON object; an empty one if it is something else."""
    if len(body) > MAX_ANSWER_BYTES:
        return {}
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _status(value: object) -> int | None:
    """The guide has the status as text; take a number too."""
    text = str(value) if type(value) is int else value
    return int(text) if isinstance(text, str) and is_digits(text) and len(text) <= 5 else None


def _is_message_id(text: str) -> bool:
    return 1 <= len(text) <= MAX_MESSAGE_ID_LENGTH and is_printable_ascii(text)


def _shown(status_code: object, secrets: Iterable[str]) -> str | None:
    """PaaSoo's free text, masked if it repeats a secret."""
    if not isinstance(status_code, str):
        return None
    # Don't mask the guide's own words: if a secret equals one of them, masking would reveal it.
    if status_code != ILLEGAL_SECRET and any(_occurs(one, status_code) for one in secrets):
        return "(not shown: it repeats the account or the text)"
    printable = (character if character.isprintable() else "?" for character in status_code)
    return "".join(printable)[:MAX_STATUS_CODE_LENGTH]


def _occurs(secret: str, text: str) -> bool:
    """True if the secret occurs, plain or as in a URL. A short one must stand as a whole word."""
    written = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}
    written.add(quote_plus(secret, safe=","))  # as in our own URL
    forms = "|".join(map(re.escape, written))
    if len(secret) < LEAST_TELLING_LENGTH:
        forms = rf"(?<!\w)({forms})(?!\w)"
    return re.search(forms, text, re.IGNORECASE) is not None
