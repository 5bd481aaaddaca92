"""A table of PaaSoo's possible behaviours for one delivery, with their default shares.

Sources: "guide" is PaaSoo's integration guide, "older guide" its public site of 2017, "SMPP" is
SMPP 3.4. None says how often anything happens: the shares are made up so that a short run has some
of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# The parameters of a report. `label` goes into `statuscode` or `errcode`: the guide doesn't say
# which of them carries it.
Template = Mapping[str, str]


class Timing(StrEnum):
    """The time of a delivery's first report."""

    PROMPT = "prompt"
    LATE = "late"
    EARLY = "early"  # before the send call is answered


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One row: its share among all, and its reports, in this order.

    No row has two different reports of one rank: the one received last would decide, and only the
    service knows which that was.
    """

    weight: float
    reports: tuple[Template, ...] = ()
    timing: Timing = Timing.PROMPT
    at_once: bool = False  # the reports come together, and may overtake each other
    repeated: bool = False  # each report comes several times
    malformed: bool = False  # the reports are spoiled by a row of `MALFORMED`
    prefixes: tuple[str, ...] = ("",)  # how `to` begins, one of them
    endings: tuple[str, ...] = ("",)  # raw, how the query ends, one of them
    is_called_back: bool = True  # if not, its reports are told only when asked for
    like: tuple[str, ...] = ()  # its reports are those of one of these behaviours


DELIVERED: Final = {"status": "0", "statuscode": "delivered", "errcode": "1"}  # the guide's sample
ACCEPTED: Final = {"status": "0", "statuscode": "accepted"}
ABSENT: Final = {"status": "404", "label": "Absent Subscriber Temporary"}


# 空号, 用户拒收, 被运营商过滤: explanations of the guide, in GBK.
GBK: Final = ("%BF%D5%BA%C5", "%d3%c3%bb%a7%be%dc%ca%d5", "%B1%BB%D4%CB%D3%AA%C9%CC%B9%FD%C2%CB")
# No text, or none that fits.
UNREADABLE: Final = (
    *("%ff%fe", "caf%E9", "a%00b", "Absent%0ASubscriber", "%1B%5B31m", "100%", "5%2", "%zz"),
    *("x" * 256, "%E7%A9%BA" * 300),
)
SPACED: Final = (
    *(
        "&statuscode=delivered%0D%0A",
        "&statuscode=%20delivered+",
        "&statuscode=delivered&errcode=+",
    ),
    *("&statuscode=%09&errcode=1%0A", "&statuscode=%E3%80%80delivered%C2%A0"),
)
TWO_WORDS: Final = (
    *("&statuscode=delivered&statuscode=failed", "&statuscode=accepted&statuscode=delivered"),
    *("&errcode=1&errcode=2", "&statuscode=&statuscode=delivered", "&network=1&network=2"),
)


# Of a message that is never called back, some more often than others.
LIKELY: Final = (
    *("delivered", "delivered", "delivered", "delivered", "accepted-first", "absent-temporary"),
    *("unauthorized", "old-failed-dead", "smpp-expired", "gbk-label", "new-label", "bare-failure"),
)


def _reported(weight: float, **parameters: str) -> Behaviour:
    return Behaviour(weight, (parameters,))


def _ending(weight: float, status: str, *endings: str) -> Behaviour:
    return Behaviour(weight, ({"status": status},), endings=endings)


BEHAVIOURS: Final[dict[str, Behaviour]] = {
    # Guide, table of statuses.
    "delivered": Behaviour(48, (DELIVERED,)),
    "unauthorized": _reported(1, status="401"),
    "forbidden-keyword": _reported(1, status="402"),
    "missing-keyword": _reported(1, status="403"),
    "system-error": _reported(1, status="501"),
    # Guide, table of the labels of status 404.
    "unknown": _reported(1, status="404", label="Unknown"),
    "absent-temporary": Behaviour(2, (ABSENT,)),
    "absent-permanent": _reported(1, status="404", label="Absent Subscriber Permanent"),
    "barred-by-user": _reported(1, status="404", label="Call barred by user"),
    "spam-filtered": _reported(1, status="404", label="Anti-Spam Rejection"),
    "network-error": _reported(1, status="404", label="Network Error"),
    "illegal-number": _reported(1, status="404", label="Illegal Number"),
    "unroutable": _reported(1, status="404", label="Unroutable"),
    "general-error": _reported(1, status="404", label="General Error"),
    # The older guide: status 0 or 400, and numbers for the reasons.
    "old-delivered": _reported(2, status="0", statuscode="delivered"),
    "old-accepted": Behaviour(2, (ACCEPTED,)),
    "old-rejected": _reported(1, status="400", statuscode="rejected", errcode="5"),
    "old-unknown": _reported(1, status="400", statuscode="unknown", errcode="1"),
    "old-failed-unknown": _reported(0.5, status="400", statuscode="failed", errcode="1"),
    "old-failed-off": _reported(0.5, status="400", statuscode="failed", errcode="2"),
    "old-failed-dead": _reported(0.5, status="400", statuscode="failed", errcode="3"),
    "old-failed-refused": _reported(0.5, status="400", statuscode="failed", errcode="4"),
    "old-failed-rejected": _reported(0.5, status="400", statuscode="failed", errcode="5"),
    "old-failed-other": _reported(0.5, status="400", statuscode="failed", errcode="99"),
    # SMPP's words.
    "smpp-delivered": _reported(1, status="0", statuscode="DELIVRD"),
    "smpp-on-its-way": _reported(1, status="0", statuscode="ENROUTE"),
    "smpp-undelivered": _reported(1, status="404", statuscode="UNDELIV"),
    "smpp-expired": _reported(1, status="404", statuscode="EXPIRED"),
    "smpp-rejected": _reported(1, status="400", statuscode="REJECTD"),
    "success-that-expired": _reported(1, status="0", statuscode="EXPIRED"),
    # The provider is Chinese, and nobody says how it encodes values.
    "chinese-label": _reported(1, status="404", label="空号"),
    "gbk-label": _ending(1, "404", *(f"&statuscode={label}" for label in GBK)),
    "unreadable-label": _ending(1, "404", *(f"&statuscode={label}" for label in UNREADABLE)),
    "unreadable-code": _ending(1, "404", *(f"&errcode={label}" for label in UNREADABLE)),
    "white-space": _ending(1, "0", *SPACED),
    "two-words": _ending(1, "0", *TWO_WORDS),
    # Values that no guide names, and contradictions.
    "bare-success": _reported(1, status="0"),
    "new-word": _reported(1, status="0", statuscode="Entregado, ¡sí!"),
    "bare-failure": _reported(1, status="404"),
    "new-label": _reported(1, status="404", label="用户关机"),
    "new-status": _reported(1, status="777", statuscode="failed"),
    "success-that-failed": _reported(1, status="0", statuscode="failed"),
    "failure-that-delivered": _reported(1, status="404", statuscode="delivered"),
    "plus-number": Behaviour(1, (DELIVERED,), prefixes=("+", "%2B", "00")),
    "extra-parameter": Behaviour(1, (DELIVERED,), endings=("&price=0.0125&text=%ff",)),
    # Several reports of one delivery.
    "repeated": Behaviour(4, (DELIVERED,), repeated=True),
    "accepted-first": Behaviour(6, (ACCEPTED, DELIVERED)),
    "accepted-last": Behaviour(2, (DELIVERED, ACCEPTED)),
    "failed-first": Behaviour(1, (ABSENT, DELIVERED)),
    "failed-last": Behaviour(1, (DELIVERED, ABSENT)),
    "at-once": Behaviour(2, (ABSENT, ACCEPTED, DELIVERED), at_once=True),
    # Reports at an unusual time, malformed, or never.
    "late": Behaviour(3, (DELIVERED,), Timing.LATE),
    "early": Behaviour(3, (DELIVERED,), Timing.EARLY),
    "malformed": Behaviour(2, (DELIVERED,), malformed=True),
    "never": Behaviour(3),
    "never-called-back": Behaviour(3, is_called_back=False, like=LIKELY),
}


@dataclass(frozen=True, slots=True)
class Malformation:
    """A way to spoil a report, and the code that its refusal must have."""

    code: str
    changes: Mapping[str, str | None]  # None leaves the parameter out
    ending: str = ""  # raw, at the end of the query


MALFORMED: Final = (
    Malformation("missing_parameter", {"type": None}),
    Malformation("missing_parameter", {"messageid": None}),
    Malformation("missing_parameter", {"to": None}),
    Malformation("missing_parameter", {"status": ""}),
    Malformation("unsupported_type", {"type": "mo"}),
    Malformation("invalid_parameter", {"messageid": "two words"}),
    Malformation("invalid_parameter", {"messageid": "x" * 129}),
    Malformation("invalid_parameter", {"to": "nobody"}),
    Malformation("invalid_parameter", {"status": "delivered"}),
    Malformation("invalid_parameter", {"status": "100000"}),
    Malformation("duplicate_parameter", {}, "&status=404"),
    Malformation("duplicate_parameter", {}, "&to=123"),
    Malformation("invalid_encoding", {"messageid": None}, "&messageid=%ff"),
    Malformation("invalid_encoding", {"to": None}, "&to=65%00"),
    Malformation("invalid_encoding", {"status": None}, "&status=%3"),
)
