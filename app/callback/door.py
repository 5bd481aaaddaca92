"""The door takes PaaSoo's callback, admits its report, and answers once the report is on disk."""

import logging
import time
from typing import Final

from app import errors, exchange, guards
from app.callback.parse import CODES, understand
from app.exchange import Answer, Reply, Request
from app.ingest.commit import Outcome
from app.ingest.writer import QueueFullError, Writer
from app.reports import CLOCK_TOLERANCE_US, Refusal
from app.settings import Settings
from app.tallies import OTHER
from app.telemetry import Metrics, expect

log = logging.getLogger(__name__)

PATH: Final = "/callback/paasoo"
RETRY_AFTER_S: Final = 2
# An address that was pasted into a form may end in these.
IGNORED_AT_THE_END: Final = "/ \t\r\n\xa0"


def _problem(status: int, code: str, detail: str, **headers: str) -> Answer:
    return exchange.problem(errors.problem(status, code, detail), **headers)


OK: Final = exchange.answer(200, "text/plain; charset=utf-8", b"OK")
FORBIDDEN: Final = _problem(403, "forbidden", "this address may not call back")
NOT_FOUND: Final = exchange.refusal(errors.NotFoundError())
NOT_ALLOWED: Final = _problem(405, "method_not_allowed", "only GET is taken here", allow="GET")
TOO_LONG: Final = exchange.refusal(errors.QueryTooLongError())
UNAVAILABLE: Final = _problem(
    503,
    "unavailable",
    "the report can't be kept now; send it again",
    retry_after=str(RETRY_AFTER_S),
)
REFUSED_BY_DATABASE: Final = _problem(400, "invalid_parameter", "the database refused a value")

# To a report, each with its name in the metrics.
ANSWERS: Final[dict[Outcome, tuple[Answer, int | str]]] = {
    Outcome.STORED: (OK, 200),
    Outcome.REFUSED: (REFUSED_BY_DATABASE, "invalid_parameter"),
    Outcome.UNAVAILABLE: (UNAVAILABLE, 503),
}
STATUSES: Final = (200, 400, 403, 404, 405, 414, 503)


class Door:
    """Answers a callback, whatever bytes it consists of.

    An admitted report is stored even if its caller hangs up.
    """

    def __init__(self, settings: Settings, writer: Writer, metrics: Metrics) -> None:
        self._tokens = [token.encode() for token in settings.callback_tokens]
        self._allowed_networks = settings.callback_allowed_networks
        self._trusted_proxies = settings.trusted_proxies
        self._writer = writer
        metrics.callbacks.expect([status for status in STATUSES if status != 400])  # by its code
        metrics.callbacks.expect(CODES)
        metrics.callback_tokens.expect(range(1, len(self._tokens) + 1))
        expect(metrics.quarantined, CODES)
        self.route = f"{PATH}/{{token}}" if self._tokens else PATH
        metrics.requests.expect(self.route, ["GET"])
        self._answered = metrics.callbacks.times
        self._presented = metrics.callback_tokens.times
        self._times = {
            status: metrics.requests.times_of(self.route, "GET", status) for status in STATUSES
        }
        self._times[405] = metrics.requests.times_of(self.route, OTHER, 405)
        # Of the last report that was acknowledged, in microseconds since 1970 UTC.
        self.last_report_at = 0
        self._now = 0  # of the latest report, in microseconds since 1970 UTC

    def receive(self, request: Request, reply: Reply) -> None:
        """Call `reply` once: at once, or when the report is on disk or can't be."""
        began = time.perf_counter()
        refusal = self._turn_away(request)
        if refusal is not None:
            reply(self._counted(refusal, refusal.status, began))
            return
        entry = understand(request.query, self.take_time())
        if isinstance(entry, Refusal):
            log.warning(
                "callback refused",
                extra={"code": entry.code, "detail": entry.detail, **self._who(request)},
            )
            self._refuse(entry, reply, began)
            return
        received_at = entry.received_at

        def conclude(outcome: Outcome) -> None:
            if outcome is Outcome.STORED:
                self.last_report_at = received_at
            reply(self._counted(*ANSWERS[outcome], began))

        try:
            self._writer.admit_report(entry, conclude)
        except QueueFullError:
            conclude(Outcome.UNAVAILABLE)

    def take_time(self) -> int:
        """A time of receipt, in microseconds since 1970 UTC: later than all before.

        If the clock is set back a little, the report that came later must still win. If it is set
        back by more, it was wrong: the times from then are ahead of now, and the fold knows those.
        """
        now = time.time_ns() // 1000
        if now < self._now - CLOCK_TOLERANCE_US:
            seconds = (self._now - now) // 1_000_000
            log.error("the clock was set back", extra={"seconds": seconds})
            self._now = now
        self._now = max(now, self._now + 1)
        return self._now

    def _counted(self, answer: Answer, name: int | str, began: float) -> Answer:
        """Count the answer by its name in the metrics, and its time."""
        self._answered[name] += 1
        self._times[answer.status].add(time.perf_counter() - began)
        return answer

    def _refuse(self, refusal: Refusal, reply: Reply, began: float) -> None:
        """Answer 400 once the refusal is in the quarantine."""

        def conclude(outcome: Outcome) -> None:
            if outcome is Outcome.UNAVAILABLE:
                reply(self._counted(UNAVAILABLE, 503, began))
                return
            answer = _problem(400, refusal.code, refusal.detail)
            reply(self._counted(answer, refusal.code, began))

        try:
            self._writer.admit_refusal(refusal, conclude)
        except QueueFullError:
            conclude(Outcome.UNAVAILABLE)

    def _turn_away(self, request: Request) -> Answer | None:
        """The answer to a request that is not parsed, and of which nothing is stored."""
        answer, why = None, ""
        if not self._is_known_path(request.path):
            # Checked first, so that a stranger can't tell this path from any other.
            why = "no callback token, or an unknown one"
            answer = NOT_FOUND.with_header(b"x-request-id", exchange.request_id(request.headers))
        elif self._allowed_networks and not self._is_from_allowed_network(request):
            answer, why = FORBIDDEN, "an address that isn't allowed"
        elif request.method != "GET":
            answer, why = NOT_ALLOWED, "the method"
        elif len(request.query) > errors.MAX_QUERY_BYTES:
            answer, why = TOO_LONG, "the length of the query"
        if answer is not None:
            told = {"status": answer.status, "why": why, **self._who(request)}
            log.warning("callback turned away", extra=told)
        return answer

    def _is_known_path(self, path: str) -> bool:
        path = path.rstrip(IGNORED_AT_THE_END)
        if not self._tokens:
            return path == PATH
        if not path.startswith(PATH + "/"):
            return False
        presented = path[len(PATH) + 1 :]
        position = guards.known_token(self._tokens, presented.encode("utf-8", "surrogatepass"))
        if position is None:
            return False
        self._presented[position + 1] += 1
        return True

    def _is_from_allowed_network(self, request: Request) -> bool:
        address = self._caller(request)
        return address is not None and guards.is_in(address, self._allowed_networks)

    def _caller(self, request: Request) -> guards.Address | None:
        forwarded_for = exchange.values_of(request.headers, b"x-forwarded-for")
        return guards.caller_address(request.peer, forwarded_for, self._trusted_proxies)

    def _who(self, request: Request) -> dict[str, object]:
        """Log fields: the connected peer, and the caller, who differs from it behind a proxy."""
        caller = self._caller(request)
        return {"peer": request.peer, "caller": None if caller is None else str(caller)}
