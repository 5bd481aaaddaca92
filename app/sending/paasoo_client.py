"""PaaSoo's send API: one call, and the meaning of its answer. No call is repeated here.

Sources: PaaSoo's integration guide, "send SMS", and its public pages (api.html). They give the JSON
of an answer but no HTTP status, so the HTTP status is ignored. The URL contains the account and the
text, so no error quotes it.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote, quote_plus, urlencode

import httpx2

from app.reports import is_digits, is_printable_ascii
from app.sending.answers import MAX_ANSWER_BYTES, NumberText, read_json, read_text
from app.sending.problems import (
    NotSentError,
    OutcomeUnknownError,
    ProviderBadAnswerError,
    ProviderBadRequestError,
    ProviderRefusedAddressError,
    ProviderRefusedCredentialsError,
    ProviderRestrictedError,
    ProviderSystemError,
    ProviderThrottledError,
    ProviderUnreachableError,
    SentJustBeforeError,
)

log = logging.getLogger(__name__)

REFUSALS: Final[dict[int, tuple[type[NotSentError], str]]] = {
    # The guide's table of statuses, without 0.
    400: (ProviderBadRequestError, "PaaSoo finds the request wrong"),
    401: (ProviderRefusedCredentialsError, "PaaSoo refuses our account"),
    403: (
        ProviderRestrictedError,
        "PaaSoo restricts our account (its balance, a black or white list)",
    ),
    404: (ProviderRefusedAddressError, "PaaSoo refuses our IP address"),
    # The public pages' table, without 11.
    2: (ProviderBadRequestError, "PaaSoo misses a parameter: this account may need a `from`"),
    4: (ProviderRefusedCredentialsError, "PaaSoo refuses our account"),
    5: (ProviderRefusedAddressError, "PaaSoo refuses our IP address"),
    6: (ProviderBadRequestError, "PaaSoo finds the format of a number wrong"),
    7: (ProviderBadRequestError, "PaaSoo finds the sender id (`from`) wrong"),
    8: (SentJustBeforeError, "this text went to this number less than 3 seconds before"),
    9: (ProviderRestrictedError, "our account at PaaSoo has no balance or credit left"),
    10: (ProviderThrottledError, "PaaSoo gets too many requests from our account"),
}
SYSTEM_ERROR: Final = 11  # of the public pages: it alone doesn't say that nothing was sent
ILLEGAL_SECRET: Final = "illegal secret.,"  # noqa: S105 - the guide's example of a `status_code`
MAX_STATUS_CODE_LENGTH: Final = 255
LEAST_TELLING_LENGTH: Final = 4  # shorter secrets occur within many words by chance

MAX_MESSAGE_ID_LENGTH: Final = 128
# A message id in JSON's numbers has at most so many digits: programs round a longer number.
MAX_ID_DIGITS: Final = 19

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

    def __init__(self, url: str, key: str, secret: str, sender: str | None) -> None:
        self._url = url
        self._account = {"key": key, "secret": secret}
        self._sender = sender  # of messages without one of their own
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

    async def send(self, recipients: Sequence[str], text: str, sender: str | None) -> str:
        """Send once, and return PaaSoo's message id.

        Raises `NotSentError` or `PerhapsSentError`.
        """
        sender = sender or self._sender
        given = {"from": sender} if sender else {}
        try:
            answer = await self.ask(self._url, {**given, "to": ",".join(recipients), "text": text})
        except ProviderUnreachableError:
            raise
        except Exception as error:  # noqa: BLE001 - after any error, the request may have left
            log.warning("a send was not answered", extra={"error": type(error).__name__})
            raise OutcomeUnknownError from None
        return message_id_of(answer, [*self._account.values(), text])

    async def ask(self, url: str, parameters: Mapping[str, str]) -> Any:
        """The JSON that an address answers our account, as `read_json` gives it.

        Raises as `ask_in_words`.
        """
        _, text = await self.ask_in_words(url, parameters)
        return read_json(text)

    async def ask_in_words(self, url: str, parameters: Mapping[str, str]) -> tuple[int, str]:
        """The answer of an address to our account: the HTTP status, and the body as text.

        Raises `ProviderUnreachableError` if nothing of the question has left. After any other
        error, some may have.
        """
        if self._has_given_up:
            raise ProviderUnreachableError
        query = urlencode({**self._account, **parameters}, safe=",")
        try:
            async with self._until_given_up():
                return await self._get(f"{url}?{query}")
        except NOTHING_LEFT:
            raise ProviderUnreachableError from None

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

    async def _get(self, url: str) -> tuple[int, str]:
        """The answer. The body is read no further than shows that it is too long."""
        body = b""
        async with self._http.stream("GET", url) as response:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    break
        return response.status_code, read_text(body, response.headers.get("Content-Encoding", ""))


def message_id_of(answer: object, secrets: Sequence[str]) -> str:
    """The message id in an answer. Raises `NotSentError` for a refusal, `PerhapsSentError` else."""
    given = answer if isinstance(answer, dict) else {}
    status, message_id = status_of(given), _message_id(given.get("messageid"))
    if status == 0 and message_id:
        return message_id
    provider = {"status": status, "status_code": _shown(given.get("status_code"), secrets)}
    if message_id == "":
        if status in REFUSALS:
            refusal, why = REFUSALS[status]
            raise refusal(f"{why}; nothing was sent", provider=provider)
        if status == SYSTEM_ERROR:
            raise ProviderSystemError(
                "PaaSoo had a system error; it may have been sent or not", provider=provider
            )
    raise ProviderBadAnswerError(
        "PaaSoo's answer is not understood; it may have been sent or not", provider=provider
    )


def status_of(answer: Mapping[str, Any]) -> int | None:
    """The status in an answer. Both sources have it as text; some servers make it a number."""
    value = answer.get("status")
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if is_digits(text) and len(text) <= 5 else None


def _message_id(value: object) -> str | None:
    """The id as text, empty if there is none, and None if it can't be one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return None
    text = value.strip()
    if isinstance(value, NumberText):
        # Zero is a number that was never set.
        return text if is_digits(text) and text != "0" and len(text) <= MAX_ID_DIGITS else None
    return text if not text or _is_message_id(text) else None


def _is_message_id(text: str) -> bool:
    return 1 <= len(text) <= MAX_MESSAGE_ID_LENGTH and is_printable_ascii(text)


def _shown(status_code: object, secrets: Iterable[str]) -> str | None:
    """PaaSoo's free text, masked if it repeats a secret."""
    if not isinstance(status_code, str) or isinstance(status_code, NumberText):
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
