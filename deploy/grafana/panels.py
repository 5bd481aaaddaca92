"""The dashboard's panels, in the order of what matters.

In their queries `@` stands for the chosen job, and `[~]` for a time that fits the zoom.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

GREEN, ORANGE, RED = "green", "orange", "red"
Steps = Sequence[tuple[float, str]]  # each colour from its value on
ALWAYS_GREEN: Final[Steps] = ((0, GREEN),)
ANY_IS_SEEN: Final[Steps] = ((0, GREEN), (1, ORANGE))
ONE_IS_NEEDED: Final[Steps] = ((0, RED), (1, GREEN))
HALF_IS_BAD: Final[Steps] = ((0, GREEN), (0.2, ORANGE), (0.5, RED))
# For values of 0 and 1.
AWAY_OR_NOT: Final = {0: "away", 1: "answers"}

CALLBACKS: Final = '@,route=~"/callback/paasoo.*",status="2xx"'
NO_CALLBACKS: Final = '@,route!~"/callback/paasoo.*|/v1/changes/stream"'


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel. `queries` has PromQL by its legend."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    description: str = ""
    steps: Steps = ALWAYS_GREEN
    names: Mapping[int, str] = field(default_factory=dict)  # shown instead of values
    if_none: str = "none"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    shows: str = "auto"


def stat(
    title: str, query: str, unit: str = "short", steps: Steps = ALWAYS_GREEN, **more: Any
) -> Panel:
    """The latest value alone."""
    queries = {more.pop("legend", ""): query}
    return Panel(title, queries, unit, steps=steps, kind="stat", width=4, height=4, **more)


def rates(metric: str, *by: str) -> dict[str, str]:
    """A counter's rate over all replicas, by these labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    return {legend: f"sum by ({', '.join(by)}) (rate({metric}{{@}}[~]))"}


def rate(metric: str) -> str:
    return f"sum(rate({metric}{{@}}[~]))"


def each(metric: str, by: str = "instance") -> dict[str, str]:
    return {f"{{{{{by}}}}}": f"max by ({by}) ({metric}{{@}})"}


def quantiles(metric: str, labels: str = "@") -> dict[str, str]:
    in_buckets = f"sum by (le) (rate({metric}_bucket{{{labels}}}[~]))"
    return {
        f"{percent} %": f"histogram_quantile({percent / 100:g}, {in_buckets})"
        for percent in (50, 99)
    }


LOSSES: Final = (
    stat(
        "Callbacks answered 503, in an hour",
        'sum(increase(dlr_callbacks_total{@,answer="503"}[1h]))',
        steps=((0, GREEN), (0.5, RED)),
        description="Nothing could be kept of them: the queue, or the spool, is full.",
    ),
    stat("Replicas that answer", "sum(up{@})", steps=ONE_IS_NEEDED, if_none="0"),
    stat(
        "Database",
        "min(dlr_database_up{@})",
        steps=ONE_IS_NEEDED,
        names=AWAY_OR_NOT,
        description="While it is away, reports go to the spool.",
    ),
    stat(
        "Reports in the spool",
        "sum(dlr_spool_waiting{@})",
        steps=ANY_IS_SEEN,
        description="Acknowledged, and not in the database yet.",
    ),
    stat(
        "Spool in use",
        "max(dlr_spool_bytes{@} / (dlr_spool_limit_bytes{@} > 0))",
        "percentunit",
        HALF_IS_BAD,
        if_none="no spool",
    ),
    stat(
        "Queue in use, at most in 5 minutes",
        "max(max_over_time(dlr_queued{@}[5m]) / dlr_queue_limit{@})",
        "percentunit",
        HALF_IS_BAD,
    ),
    stat("Since the last report", "time() - max(dlr_last_report_timestamp_seconds{@} > 0)", "s"),
    stat(
        "Change feed held back",
        "max(dlr_feed_held_seconds{@})",
        "s",
        ((0, GREEN), (30, ORANGE), (120, RED)),
        description="By an open transaction: docs/operating.md says how to find it.",
    ),
    stat(
        "Webhooks that fail",
        'count(max by (webhook) ({__name__=~"dlr_webhook_failing|dlr_webhook_disabled",@}) == 1)'
        " or vector(0)",
        steps=ANY_IS_SEEN,
    ),
    stat("Callbacks in the quarantine", "max(dlr_quarantine_rows{@})", steps=ANY_IS_SEEN),
    stat(
        "Balance at PaaSoo",
        "min by (currency) (dlr_balance{@})",
        steps=((0, RED), (10, GREEN)),
        legend="{{currency}}",
        if_none="not asked for",
        shows="value_and_name",
    ),
    stat(
        "Version",
        "count by (version) (dlr_build_info{@})",
        legend="{{version}}",
        shows="name",
    ),
)

REPORTS: Final = (
    Panel("Callbacks a second, by answer", rates("dlr_callbacks_total", "answer"), "reqps"),
    Panel("Reports stored a second, by state", rates("dlr_reports_total", "state"), "reqps"),
    Panel(
        "Time to the answer of a callback", quantiles("dlr_http_request_seconds", CALLBACKS), "s"
    ),
)

STORAGE: Final = (
    Panel("Time of a commit", quantiles("dlr_commit_seconds"), "s"),
    Panel(
        "Reports in a commit",
        {"mean": f"{rate('dlr_batch_reports_sum')} / {rate('dlr_batch_reports_count')}"},
    ),
    Panel("Reports in the queue", each("dlr_queued") | {"limit": "min(dlr_queue_limit{@})"}),
    Panel("Database answers", each("dlr_database_up"), names=AWAY_OR_NOT),
    Panel("Failed batches a second, by fault", rates("dlr_failed_batches_total", "fault"), "ops"),
    Panel("Change feed held back", each("dlr_feed_held_seconds"), "s"),
    Panel(
        "Standbys",
        {
            "synchronous": "max(dlr_synchronous_standbys{@})",
            "asynchronous": "max(dlr_asynchronous_standbys{@})",
        },
    ),
    Panel("Reports in the spool", each("dlr_spool_waiting")),
    Panel("Spool: bytes in use", each("dlr_spool_bytes"), "bytes"),
    Panel(
        "Spooled a second, and damaged spools",
        {"spooled": rate("dlr_spooled_total"), "damaged": "max(dlr_spool_damaged{@})"},
    ),
)

REFUSED: Final = (
    Panel("Quarantined a second, by code", rates("dlr_quarantined_total", "code"), "reqps"),
    Panel(
        "Pushed out of the quarantine, and unknown statuses, a second",
        {
            "pushed out": rate("dlr_quarantine_dropped_total"),
            "a status that no guide names": rate("dlr_unrecognised_statuses_total"),
        },
        "ops",
    ),
    Panel(
        "Callbacks a second, by the token's position",
        rates("dlr_callback_tokens_total", "position"),
        "reqps",
        description="Remove a token when nobody uses it any more.",
    ),
)

API: Final = (
    Panel(
        "Requests a second, by route",
        {
            "{{method}} {{route}}": "topk(12, sum by (route, method) "
            f"(rate(dlr_http_request_seconds_count{{{NO_CALLBACKS}}}[~])))"
        },
        "reqps",
    ),
    Panel(
        "Time of 99 % of the requests, by route",
        {
            "{{route}}": "histogram_quantile(0.99, sum by (route, le) "
            f"(rate(dlr_http_request_seconds_bucket{{{NO_CALLBACKS}}}[~])))"
        },
        "s",
    ),
    Panel(
        "Answers 5xx a second, by route",
        {
            "{{route}}": "topk(12, sum by (route) "
            '(rate(dlr_http_request_seconds_count{@,status="5xx"}[~])))'
        },
        "reqps",
    ),
    Panel(
        "Requests that wait, and streams",
        {"waiting": "sum(dlr_waiting{@})", "streams": "sum(dlr_streams{@})"},
    ),
)

SENDING: Final = (
    Panel("Sends a second, by outcome", rates("dlr_sends_total", "outcome"), "ops"),
    Panel("Questions for missing reports, a second", rates("dlr_pulls_total", "step"), "ops"),
    Panel("Questions that are due", {"due": "max(dlr_pulls_waiting{@})"}),
    Panel("Balance", {"{{currency}}": "min by (currency) (dlr_balance{@})"}),
    Panel(
        "Questions for the balance, a second",
        rates("dlr_balance_questions_total", "outcome"),
        "ops",
    ),
    Panel("Deliveries given up, a second", {"expired": rate("dlr_expired_total")}, "ops"),
)

WEBHOOKS: Final = (
    Panel("Pushes a second", rates("dlr_webhook_pushes_total", "webhook", "outcome"), "ops"),
    Panel("Behind", each("dlr_webhook_lag_seconds", "webhook"), "s"),
    Panel("Changes that wait", each("dlr_webhook_lag_changes", "webhook")),
)

PROCESSES: Final = (
    Panel(
        "Cores in use",
        {"{{instance}}": "sum by (instance) (rate(process_cpu_seconds_total{@}[~]))"},
    ),
    Panel("Memory", each("process_resident_memory_bytes"), "bytes"),
    Panel("Open files", each("process_open_fds") | {"limit": "min(process_max_fds{@})"}),
    Panel(
        "Connections refused, and log lines dropped, a second",
        {
            "refused": rate("dlr_connections_refused_total"),
            "dropped": rate("dlr_log_lines_dropped_total"),
        },
        "ops",
    ),
    Panel(
        "Running for",
        {"{{instance}}": "time() - max by (instance) (process_start_time_seconds{@})"},
        "s",
    ),
)

ROWS: Final[Mapping[str, Sequence[Panel]]] = {
    "Are reports lost?": LOSSES,
    "Reports": REPORTS,
    "Database and spool": STORAGE,
    "Refused and unknown": REFUSED,
    "API": API,
    "Sending, and asking PaaSoo": SENDING,
    "Webhooks": WEBHOOKS,
    "Processes": PROCESSES,
}
