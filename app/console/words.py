"""States, reasons and refusals in plain words."""

from typing import Final

from app.reports import RETRYABLE_REASONS, Reason, State

STATES: Final[dict[str, str]] = {
    State.DELIVERED: "Delivered",
    State.UNDELIVERED: "Not delivered",
    State.REJECTED: "Rejected",
    State.EXPIRED: "No report in time",
    State.UNKNOWN: "Unclear",
    State.ACCEPTED: "With the carrier",
    State.PENDING: "No report yet",
}

REASONS: Final[dict[str, str]] = {
    Reason.UNKNOWN: "the operator gave no reason that it knows",
    Reason.ABSENT_TEMPORARY: "the phone was off or out of coverage",
    Reason.ABSENT_PERMANENT: "the number does not exist",
    Reason.BARRED_BY_USER: "the recipient refuses such messages",
    Reason.SPAM_FILTERED: "the operator filtered it as spam",
    Reason.NETWORK_ERROR: "the operator's network failed",
    Reason.ILLEGAL_NUMBER: "the number is not valid",
    Reason.UNROUTABLE: "the operator can't send it, perhaps because the number is not valid",
    Reason.GENERAL_ERROR: "a special error of the operator's; PaaSoo may know more",
    Reason.VALIDITY_EXPIRED: "the operator gave up before the phone could be reached",
    Reason.UNAUTHORIZED: "the account may not send this",
    Reason.FORBIDDEN_KEYWORD: "the text has a forbidden word",
    Reason.MISSING_KEYWORD: "the text lacks a required word",
    Reason.SYSTEM_ERROR: "PaaSoo's system failed",
    Reason.UNSPECIFIED: "the report gives no reason",
    Reason.CONTRADICTORY: "the report contradicts itself",
    Reason.UNRECOGNISED_STATUS: "the report has a status that no guide explains",
}

_OF_STATE: Final[dict[str, str]] = {
    State.DELIVERED: "The message has reached the phone.",
    State.EXPIRED: "No final report came in time. A late report still takes over.",
    State.ACCEPTED: "The carrier has taken the message. The phone has not confirmed it yet.",
    State.PENDING: "The message was sent, and no report has come so far.",
}

SOURCES: Final = {
    "callback": "PaaSoo called",
    "replay": "Replayed from the quarantine",
    "pull": "PaaSoo answered our question",
}

REFUSALS: Final = {
    "missing_parameter": "A required parameter is missing",
    "unsupported_type": "It is not a delivery report",
    "invalid_parameter": "A required parameter has a value that can't be right",
    "duplicate_parameter": "A required parameter came twice with different values",
    "invalid_encoding": "A required parameter can't be read as text",
}


def of_state(state: str) -> str:
    return STATES.get(state, state)


def of_reason(reason: str) -> str:
    return REASONS.get(reason, reason)


def of_refusal(code: str) -> str:
    return REFUSALS.get(code, code)


def sentence(state: str, reason: str | None) -> str:
    """A delivery's state in a sentence or two, with advice where there is any."""
    if reason is None:
        return _OF_STATE.get(state, f"{of_state(state)}.")
    told = f"{of_state(state)}: {of_reason(reason)}."
    if reason in RETRYABLE_REASONS:
        return f"{told} Worth trying again."
    if state in {State.UNDELIVERED, State.REJECTED} and reason in _HOPELESS:
        return f"{told} Sending it again will not help."
    return told


_HOPELESS: Final = frozenset(
    {
        Reason.ABSENT_PERMANENT,
        Reason.BARRED_BY_USER,
        Reason.ILLEGAL_NUMBER,
        Reason.FORBIDDEN_KEYWORD,
        Reason.MISSING_KEYWORD,
    }
)
