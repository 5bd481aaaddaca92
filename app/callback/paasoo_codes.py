"""PaaSoo's vocabulary as data, and the meaning of a report in it.

Sources: "guide" is PaaSoo's integration guide, "status report"; "older guide" is its public site of
2017, whose accounts may still be live; SMPP 3.4, section 5.2.28 and appendix B, gives the words of
its operators. No guide says which parameter carries the label of a failure: look in `statuscode`,
then in `errcode`. The guide's own sample has `errcode=1` with `delivered`, so `errcode` never
decides success.
"""

from typing import Final

from app.reports import Reason, State

_IGNORED: Final = str.maketrans("", "", " -_")


def plain(label: str | None) -> str:
    """Remove what the provider varies in a label: case, outer space, and space, `-` or `_`."""
    return (label or "").strip().translate(_IGNORED).lower()


# Guide, table of the labels that explain a status 404. The list is open-ended.
_REASON_OF_ENGLISH: Final = {
    "Unknown": Reason.UNKNOWN,
    "Absent Subscriber Temporary": Reason.ABSENT_TEMPORARY,
    "Absent Subscriber Permanent": Reason.ABSENT_PERMANENT,
    "Call barred by user": Reason.BARRED_BY_USER,
    "Anti-Spam Rejection": Reason.SPAM_FILTERED,
    "Network Error": Reason.NETWORK_ERROR,
    "Illegal Number": Reason.ILLEGAL_NUMBER,
    "Unroutable": Reason.UNROUTABLE,
    "General Error": Reason.GENERAL_ERROR,
}

# The guide's explanations of these labels: the provider is Chinese.
_REASON_OF_CHINESE: Final = {
    "目标号码不在服务区或关机": Reason.ABSENT_TEMPORARY,
    "空号": Reason.ABSENT_PERMANENT,
    "用户拒收": Reason.BARRED_BY_USER,
    "被运营商过滤": Reason.SPAM_FILTERED,
    "运营商网络错误": Reason.NETWORK_ERROR,
    "无效号码": Reason.ILLEGAL_NUMBER,
}

REASON_OF_LABEL: Final = {
    plain(label): reason
    for label, reason in {
        **_REASON_OF_ENGLISH,
        **_REASON_OF_CHINESE,
        "EXPIRED": Reason.VALIDITY_EXPIRED,  # SMPP
    }.items()
}

# SMPP's message states, as they stand in receipts and in its table, and what gateways say while a
# message is on its way; in the guides' words.
GUIDES_WORD: Final = {
    plain(word): guides_word
    for guides_word, words in {
        "delivered": ["DELIVRD"],
        "accepted": ["ACCEPTD", "ENROUTE", "BUFFERED", "SUBMITTED", "SENT", "QUEUED"],
        "failed": ["UNDELIV", "UNDELIVERED", "UNDELIVERABLE", "DELETED"],
        "rejected": ["REJECTD"],
    }.items()
    for word in words
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


def meaning_of(  # noqa: PLR0911 - one line a row of the guide's table
    status: int, statuscode: str | None, errcode: str | None
) -> tuple[State, Reason | None]:
    """The state that a report claims, and the reason if it isn't a success.

    A report whose parts disagree is never a delivery; an unknown word never makes it a failure.
    """
    word = plain(statuscode)
    word = GUIDES_WORD.get(word, word)
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
