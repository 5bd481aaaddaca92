"""The door: PaaSoo's callback comes in, is understood, admitted, and answered once it's on disk."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from app import errors, guards
from app.callback.parse import understand
from app.ingest.commit import Outcome
from app.ingest.writer import QueueFullError, Writer
from app.reports import Refusal
from app.settings import Settings
from app.telemetry import Metrics

log = logging.getLogger(__name__)

PATH: Final = "/callback/paasoo"
RETRY_AFTER_S: Final = 2
# An address that was pasted into a form may end in these.
IGNORED_AT_THE_END: Final = "/ \t\r\n\xa0"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, ready to be sent: by a server of ASGI, or as it stands."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    status_line: bytes
    header_lines: bytes


def _answer(status: int, content_type: str, body: bytes, **headers: str) -> Answer:
    fields = {
        # In the order of Starlette's, so that our 404 is to the byte that of any unknown path.
        "content-length": str(len(body)),
        "content-type": content_type,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Answer(
        status,
        [(name.encode(), value.encode()) for name, value in fields.items()],
        body,
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode(),
        "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode(),
    )


def _problem(status: int, code: str, detail: str, **headers: str) -> Answer:
    document = errors.problem(status, code, detail)
    return _answer(status, errors.PROBLEM_TYPE, errors.encode(document), **headers)


OK: Final = _answer(200, "text/plain; charset=utf-8", b"OK")
FORBIDDEN: Final = _problem(403, "forbidden", "this address may not call back")
NOT_FOUND: Final = _problem(404, errors.NotFoundError.code, errors.NotFoundError().detail)
NOT_ALLOWED: Final = _problem(405, "method_not_allowed", "only GET is taken here", allow="GET")
TOO_LONG: Final = _problem(414, errors.QueryTooLongError.code, errors.QueryTooLongError().detail)
UNAVAILABLE: Final = _problem(
    503,
    "unavailable",
    "the report can't be kept now; send it again",
    retry_after=str(RETRY_AFTER_S),
)
REFUSED_BY_DATABASE: Final = _problem(400, "invalid_parameter", "the database refused a value")

# To a report.
ANSWERS: Final = {
    Outcome.STORED: OK,
    Outcome.REFUSED: REFUSED_BY_DATABASE,
    Outcome.UNAVAILABLE: UNAVAILABLE,
}


class Door:
    """From an ASGI scope to its answer, whatever bytes arrive.

    A report that was admitted is stored, whether or not its caller stays to hear of it.
    """

    def __init__(self, settings: Settings, writer: Writer, metrics: Metrics) -> None:
        self._tokens = [token.encode() for token in settings.callback_tokens]
        self._allowed_networks = settings.callback_allowed_networks
        self._trusted_proxies = settings.trusted_proxies
        self._writer = writer
        self._answered = metrics.callbacks.times
        self._presented = metrics.callback_tokens.times

    async def __call__(self, scope: Mapping[str, Any]) -> Answer:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def reply(found: Answer) -> None:
            if not answer.done():  # cancelled with its caller
                answer.set_result(found)

        self.receive(scope, reply)
        return await answer

    def receive(self, scope: Mapping[str, Any], reply: Callable[[Answer], None]) -> None:
        """Call `reply` once: now, or when it is known whether the report is on disk.

        Of the ASGI scope only `method`, `path`, `query_string`, `headers` and `client` matter.
        """
        refusal = self._turn_away(scope)
        if refusal is not None:
            self._answered[refusal.status] += 1
            reply(refusal)
            return
        entry = understand(scope["query_string"], time.time_ns() // 1000)
        if isinstance(entry, Refusal):
            log.warning(
                "callback refused",
                extra={"code": entry.code, "detail": entry.detail, **self._who(scope)},
            )
            self._refuse(entry, reply)
            return
        try:
            self._writer.admit_report(entry, lambda outcome: reply(self._conclude(outcome)))
        except QueueFullError:
            reply(self._conclude(Outcome.UNAVAILABLE))

    def _conclude(self, outcome: Outcome) -> Answer:
        """The answer to a report whose fate is known."""
        answer = ANSWERS[outcome]
        self._answered[answer.status] += 1
        return answer

    def _refuse(self, refusal: Refusal, reply: Callable[[Answer], None]) -> None:
        """Answer 400 once the refusal is in the quarantine."""

        def conclude(outcome: Outcome) -> None:
            if outcome is Outcome.UNAVAILABLE:
                reply(self._conclude(outcome))
                return
            self._answered[refusal.code] += 1
            reply(_problem(400, refusal.code, refusal.detail))

        try:
            self._writer.admit_refusal(refusal, conclude)
        except QueueFullError:
            conclude(Outcome.UNAVAILABLE)

    def _turn_away(self, scope: Mapping[str, Any]) -> Answer | None:
        """The answer to what is not even looked at, and of which nothing is stored."""
        answer = None
        if not self._is_known_path(scope["path"]):
            # First of all, so that a stranger can't tell this path from any other.
            answer = NOT_FOUND
        elif self._allowed_networks and not self._is_from_allowed_network(scope):
            answer = FORBIDDEN
        elif scope["method"] != "GET":
            answer = NOT_ALLOWED
        elif len(scope["query_string"]) > errors.MAX_QUERY_BYTES:
            answer = TOO_LONG
        if answer is not None:
            log.warning("callback turned away", extra={"status": answer.status, **self._who(scope)})
        return answer

    def _is_known_path(self, path: str) -> bool:
        if not self._tokens:
            return path == PATH
        if not path.startswith(PATH + "/"):
            return False
        presented = path[len(PATH) + 1 :].rstrip(IGNORED_AT_THE_END)
        position = guards.known_token(self._tokens, presented.encode("utf-8", "surrogatepass"))
        if position is None:
            return False
        self._presented[position + 1] += 1
        return True

    def _is_from_allowed_network(self, scope: Mapping[str, Any]) -> bool:
        address = self._caller(scope)
        return address is not None and guards.is_in(address, self._allowed_networks)

    def _caller(self, scope: Mapping[str, Any]) -> guards.Address | None:
        client = scope.get("client")
        forwarded_for = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return guards.caller_address(
            client[0] if client else None, forwarded_for, self._trusted_proxies
        )

    def _who(self, scope: Mapping[str, Any]) -> dict[str, object]:
        """For the log: who is connected, and who called, which behind a proxy is another."""
        return {**peer(scope), "caller": str(self._caller(scope))}


def peer(scope: Mapping[str, Any]) -> dict[str, object]:
    """Who is connected, for the log."""
    client = scope.get("client")
    return {"peer": client[0] if client else None}
