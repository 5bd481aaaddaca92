"""The story of one delivery: what came when, which report decides, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from app.console import words
from app.console.pages import counted
from app.reports import FINAL_STATES, LOWEST_REPORTED_FINAL_RANK, RANK, State
from app.store.submissions import UNKNOWN_ID


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a timeline. `at` in microseconds since 1970 UTC."""

    at: int
    title: str
    state: str | None = None
    details: Sequence[str] = ()
    report: Row[Any] | None = None  # its raw query is shown
    decides: bool = False
    is_to_come: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Our own steps for a message without a final report. Times in microseconds."""

    now: int
    timeout: int  # 0: it is never given up
    asks: bool
    questions: Row[Any, Any, Any] | None


def timeline(
    delivery: Row[Any], mark: Row[Any], reports: Sequence[Row[Any]], plan: Plan
) -> list[Event]:
    """The events of one recipient, oldest first, then those to come."""
    past = sorted(_events(delivery, mark, reports), key=lambda event: event.at)
    to_come = () if delivery.state in FINAL_STATES else _to_come(delivery, plan)
    return [*past, *to_come]


def _events(delivery: Row[Any], mark: Row[Any], reports: Sequence[Row[Any]]) -> Iterator[Event]:
    if delivery.submitted_at is not None:
        is_known = not delivery.message_id.startswith(UNKNOWN_ID)
        yield Event(delivery.submitted_at, "Sent" if is_known else "Perhaps sent")
    for report in reports:
        yield _of_report(report, decides=_decides(report, mark))
    if mark.expired_at is not None:
        yield Event(
            mark.expired_at,
            "Given up waiting",
            State.EXPIRED,
            ["No final report had come by then. A late report still takes over."],
            decides=delivery.state == State.EXPIRED,
        )


def _to_come(delivery: Row[Any], plan: Plan) -> Iterator[Event]:
    questions = plan.questions
    is_last = questions is not None and _has_no_question(questions, plan)
    if questions is not None and plan.asks and not is_last:
        title = "Next question to PaaSoo" if questions.due_at > plan.now else "Asking PaaSoo now"
        yield Event(questions.due_at, title, details=[_asked(questions)], is_to_come=True)
    began = delivery.submitted_at or delivery.first_received_at
    if plan.timeout and began and began + plan.timeout > plan.now:
        yield Event(
            began + plan.timeout,
            "The end of waiting",
            details=["Without a final report by then, the message counts as “No report in time”."],
            is_to_come=True,
        )


def _has_no_question(questions: Row[Any, Any, Any], plan: Plan) -> bool:
    """True after the last question: then the time of the next one is that of the expiry."""
    return bool(plan.timeout) and questions.due_at >= questions.sent_at + plan.timeout


def _asked(questions: Row[Any, Any, Any]) -> str:
    if not questions.asked:
        return "PaaSoo has not been asked about this message yet."
    asked = counted(questions.asked, "time")
    return f"PaaSoo was asked {asked} before. An answer with a report is an entry above."


def _decides(report: Row[Any], mark: Row[Any]) -> bool:
    return bool(report.fingerprint == mark.fingerprint and RANK[report.state] == mark.rank)


def _of_report(report: Row[Any], *, decides: bool) -> Event:
    details = [words.sentence(report.state, report.reason)]
    if report.times_received > 1:
        repeats = counted(report.times_received - 1, "repeat")
        details.append(f"The same report came again: {repeats} so far.")
    title = words.SOURCES.get(report.source, report.source)
    return Event(report.received_at, title, report.state, details, report, decides)


def why(delivery: Row[Any], mark: Row[Any], reports: Sequence[Row[Any]]) -> str:
    """Say which report decides, and why that one; empty if there is no choice."""
    if delivery.state == State.EXPIRED or len(reports) <= 1:
        return ""
    equal = [report for report in reports if RANK[report.state] == mark.rank]
    others = {report.state for report in reports} - {report.state for report in equal}
    if others:
        return _why_of_rank(delivery.state, others, reports, mark)
    return "The reports weigh the same, so the one that was received last decides."


def _why_of_rank(state: str, others: set[str], reports: Sequence[Row[Any]], mark: Row[Any]) -> str:
    latest = max(reports, key=lambda report: report.last_received_at)
    if state == State.DELIVERED and RANK[latest.state] == LOWEST_REPORTED_FINAL_RANK:
        return "A late failure doesn't undo a delivery, so the delivery decides."
    weaker = ", ".join(f"“{words.of_state(other)}”" for other in sorted(others))
    last = "" if _decides(latest, mark) else ", though it was not the last to come"
    return f"“{words.of_state(state)}” outranks {weaker}{last}."


def contradiction(delivery: Row[Any], reports: Sequence[Row[Any]]) -> str | None:
    """Say that final reports disagree, if they do."""
    if not delivery.conflicting:
        return None
    final = {it.state for it in reports if RANK[it.state] >= LOWEST_REPORTED_FINAL_RANK}
    claims = " and ".join(f"“{words.of_state(state)}”" for state in sorted(final))
    return (
        f"PaaSoo's reports contradict each other: they say {claims}. If it matters, ask PaaSoo, "
        "with the raw reports below."
    )
