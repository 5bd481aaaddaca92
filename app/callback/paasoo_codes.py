"""PaaSoo's vocabulary as data, and the meaning of a report in it.

Sources: "guide" is PaaSoo's integration guide, "status report"; "older guide" is its public site of
2017, whose accounts may still be live. Neither says which parameter carries the label of a failure:
look in `statuscode`, then in `errcode`. The guide's own sample has `errcode=1` with `delivered`, so
`errcode` never decides success.
"""

from typing import Final

from app.reports import Reason, State

# Guide, table of the labels that explain a status 404. The list is open-ended.
REASON_OF_LABEL: Final = {
    "unknown": Reason.UNKNOWN,
    "absent subscriber temporary": Reason.ABSENT_TEMPORARY,
    "absent subscriber permanent": Reason.ABSENT_PERMANENT,
    "call barred by user": Reason.BARRED_BY_USER,
    "anti spam rejection": Reason.SPAM_FILTERED,
    "network error": Reason.NETWORK_ERROR,
    "illegal number": Reason.ILLEGAL_NUMBER,
    "unroutable": Reason.UNROUTABLE,
    "general error": Reason.GENERAL_ERROR,
}

# Older guide, table of the numeric error codes of a failure.
REASON_OF_ERRCODE: Final = {
    "1": Reason.UNKNOWN,
    "2": Reason.ABSENT_TEMPORARY,
    "3": Reason.ABSENT_PERMANENT,
    "4": Reason.BARRED_BY_USER,
    "5": Reason.SPAM_FILTERED,
    "99": Reason.GENERAL_ERROR,
}

# Guide, table of statuses: failures that need no label.
FAILURE_OF_STATUS: Final = {
    401: (State.REJECTED, Reason.UNAUTHORIZED),
    402: (State.REJECTED, Reason.FORBIDDEN_KEYWORD),
    403: (State.REJECTED, Reason.MISSING_KEYWORD),
    501: (State.UNDELIVERED, Reason.SYSTEM_ERROR),
}

SUCCESS_WORDS: Final = frozenset({"delivered", "accepted"})
FAILURE_WORDS: Final = frozenset({"failed", "rejected", "unknown"}) | REASON_OF_LABEL.keys()

_SPACES_FOR_DASHES: Final = str.maketrans("-_", "  ")


def plain(label: str | None) -> str:
    """Remove what the provider varies in a label: case, outer space, `-` or `_` for a space."""
    return (label or "").translate(_SPACES_FOR_DASHES).strip().lower()


def meaning_of(  # noqa: PLR0911 - one line a row of the guide's table
    status: int, statuscode: str | None, errcode: str | None
) -> tuple[State, Reason | None]:
    """The state that a report claims, and the reason if it isn't a success.

    A report whose parts disagree is never a delivery; an unknown word never makes it a failure.
    """
    word = plain(statuscode)
    if status == 0:
        if word == "accepted":
            return State.ACCEPTED, None
        if word in FAILURE_WORDS:
            return State.UNKNOWN, Reason.CONTRADICTORY
        return State.DELIVERED, None
    if word in SUCCESS_WORDS:
        return State.UNKNOWN, Reason.CONTRADICTORY
    if status in FAILURE_OF_STATUS:
        return FAILURE_OF_STATUS[status]
    if status == 404:
        return State.UNDELIVERED, _reason_of_failure(word, errcode)
    if status == 400:  # older guide
        if word == "unknown":
            return State.UNKNOWN, Reason.UNKNOWN
        state = State.REJECTED if word == "rejected" else State.UNDELIVERED
        return state, _reason_of_failure(word, errcode)
    return State.UNKNOWN, Reason.UNRECOGNISED_STATUS


def _reason_of_failure(word: str, errcode: str | None) -> Reason:
    label = plain(errcode)
    return (
        REASON_OF_LABEL.get(word)
        or REASON_OF_LABEL.get(label)
        or REASON_OF_ERRCODE.get((errcode or "").strip().lstrip("0"))
        or Reason.UNSPECIFIED
    )
