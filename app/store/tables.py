"""The tables, as the migrations make them.

Times are BIGINT, microseconds since 1970 UTC: both databases sort, subtract and group them alike,
and binding them costs nothing (`docs/decisions/0002-times-as-integers.md`).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TextClause,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Ids are ASCII and compared byte by byte, whatever the locale.
Ascii = Text().with_variant(Text(collation="C"), "postgresql")


def _partial(name: str, *columns: str, where: TextClause) -> Index:
    return Index(name, *columns, postgresql_where=where, sqlite_where=where)


_KEY = ("message_id", "recipient")
_GROUP = ("hour", "mcc_mnc", "state", "reason")

# The history: every distinct report that ever came, but for the only one of a delivery, which
# stands in the delivery's row (`docs/decisions/0015-the-only-report.md`). Only its times and its
# count change, and `rebuild` may give it another state and reason.
reports = Table(
    "reports",
    metadata,
    Column("message_id", Ascii, primary_key=True),
    Column("recipient", Ascii, primary_key=True, comment="MSISDN: digits, country code first"),
    Column(
        "fingerprint",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="of status, statuscode, errcode and mcc_mnc: equal means the same report",
    ),
    Column("received_at", BigInteger, nullable=False, comment="first; us since 1970 UTC"),
    Column("last_received_at", BigInteger, nullable=False, comment="us since 1970 UTC"),
    Column("times_received", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(32)),
    Column("status", Integer, nullable=False, comment="PaaSoo's"),
    Column("statuscode", Text, comment="PaaSoo's"),
    Column("errcode", Text, comment="PaaSoo's"),
    Column("mcc_mnc", Text, comment="PaaSoo's network"),
    # Empty if it was a callback: see `history.REPORT`.
    Column("source", String(16), nullable=False, comment="how it came to us"),
    # Empty if it is as in PaaSoo's guide: `history.REPORT` makes it again.
    Column("query", Text, nullable=False, comment="raw, non-printable bytes percent-encoded"),
)

# The current status of each delivery: the fold of its reports and of our own marks. As long as only
# one report came, and decides, the row is that report, too: a trigger moves it to `reports` when
# the row is about to say something else.
deliveries = Table(
    "deliveries",
    metadata,
    Column("message_id", Ascii, primary_key=True),
    Column("recipient", Ascii, primary_key=True, comment="MSISDN: digits, country code first"),
    # The greatest (rank, decided_at, fingerprint) of all reports decides.
    Column("rank", SmallInteger, nullable=False),
    Column("decided_at", BigInteger, nullable=False, comment="us since 1970 UTC"),
    Column("fingerprint", BigInteger, nullable=False, comment="of the deciding report"),
    Column("state", String(16), nullable=False),
    Column("reason", String(32)),
    Column("status", Integer),
    Column("statuscode", Text),
    Column("errcode", Text),
    Column("mcc_mnc", Text),
    Column("conflicting", Boolean, nullable=False, comment="two final reports disagree"),
    Column("first_received_at", BigInteger, comment="us since 1970 UTC"),
    # Never NULL, so that pages can begin after any row; 0 rightly comes last.
    Column(
        "last_received_at",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="us since 1970 UTC; 0 while no report came",
    ),
    Column("submitted_at", BigInteger, comment="when it was sent; us since 1970 UTC"),
    Column("reference", Text, comment="the sender's own name for it"),
    Column("expired_at", BigInteger, comment="when it was given up; us since 1970 UTC"),
    Column(
        "changed_in",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="position in the change feed",
    ),
    Column("price", Text, comment="PaaSoo's, as it came"),
    Column("parts", Integer, comment="that the text was split into"),
    Column(
        "times_received",
        Integer,
        comment="of the only report, which this row holds; NULL if `reports` holds them all",
    ),
    Column("source", String(16), comment="of the only report"),
    Column("query", Text, comment="of the only report"),
    # A statement fails before it overwrites the report, if the trigger is missing. SQLite's
    # trigger empties the columns too late for this.
    CheckConstraint(
        "(times_received IS NULL) = (query IS NULL)"
        " AND (times_received IS NULL OR status IS NOT NULL)",
        name="only_report",
    ).ddl_if(dialect="postgresql"),
    # For the queries of the status API, in the order of their answers. Times and positions of most
    # are unique or nearly so: the databases sort ties, so that these indexes stay small.
    Index(None, "last_received_at"),
    Index(None, "changed_in"),
    Index(None, "recipient", "last_received_at"),
    *(
        _partial(f"ix_deliveries_{column}_last_received_at", column, "last_received_at", where=it)
        for column, it in {
            "mcc_mnc": text("mcc_mnc IS NOT NULL"),
            "errcode": text("errcode IS NOT NULL"),
            "reason": text("reason IS NOT NULL"),
        }.items()
    ),
    # Few have these. Of most that are delivered the index by `last_received_at` finds enough.
    *(
        _partial(f"ix_deliveries_{column}", column, "last_received_at", *_KEY, where=it)
        for column, it in {
            "state": text("state <> 'delivered'"),
            "reference": text("reference IS NOT NULL"),
        }.items()
    ),
    # A network's failures of one kind, and a number's that are not delivered.
    _partial(
        "ix_deliveries_mcc_mnc_reason_last_received_at",
        *("mcc_mnc", "reason", "last_received_at"),
        where=text("reason IS NOT NULL"),
    ),
    _partial(
        "ix_deliveries_recipient_not_delivered",
        *("recipient", "last_received_at"),
        where=text("state <> 'delivered'"),
    ),
    # For the console: few are contradictory.
    _partial("ix_deliveries_conflicting", "last_received_at", *_KEY, where=text("conflicting")),
    # All of these are ties: without a report, or of a time before the change feed.
    _partial("ix_deliveries_never_reported", *_KEY, where=text("last_received_at = 0")),
    _partial("ix_deliveries_never_changed", *_KEY, where=text("changed_in = 0")),
    # For the expiry sweep, and for statistics by the time of sending.
    _partial("ix_deliveries_open_sent", "submitted_at", where=text("rank < 3")),
    _partial("ix_deliveries_open_seen", "first_received_at", where=text("rank < 3")),
    _partial("ix_deliveries_unreported", "submitted_at", where=text("last_received_at = 0")),
)


# The number of deliveries by hour, counted by triggers on `deliveries`.
#
# The number of a group is the sum of its rows here and in `count_deltas`
# (`docs/decisions/0007-statistics-by-triggers.md`).
delivery_counts = Table(
    "delivery_counts",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False, comment="since 1970 UTC"),
    Column("mcc_mnc", Text, primary_key=True, comment="empty where it is not known"),
    Column("state", String(16), primary_key=True),
    Column("reason", String(32), primary_key=True, comment="empty where there is none"),
    # Always 0 since migration 0011: other parts, and their index, were what `count_deltas` is now.
    Column(
        "part",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="0, or the transaction that added it",
    ),
    Column("deliveries", BigInteger, nullable=False, comment="may be negative in a part"),
    _partial("ix_delivery_counts_part", "part", where=text("part <> 0")),
    sqlite_with_rowid=False,
)

# The triggers write here, until `store.stats.compact` adds it up. PostgreSQL only appends, so no
# transaction waits for another; SQLite, where one connection writes, has a row for each group.
count_deltas = Table(
    "count_deltas",
    metadata,
    *(Column(name, delivery_counts.c[name].type, nullable=False) for name in _GROUP),
    Column("deliveries", BigInteger, nullable=False, comment="more, or fewer if negative"),
)

# The sums of `delivery_counts` by state alone: a hundredth of the rows, for statistics by hour.
state_totals = Table(
    "state_totals",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False, comment="since 1970 UTC"),
    Column("state", String(16), primary_key=True),
    Column("deliveries", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# One row. On SQLite `base` is the latest position in the change feed; on PostgreSQL a position is
# `base` and the number of the transaction (`docs/decisions/0006-change-feed.md`). `history` is
# the server whose numbers these are.
feed = Table(
    "feed",
    metadata,
    Column("base", BigInteger, nullable=False),
    Column("history", Text),
)

# Calls of the send API: written down before they leave, so that no replica ever makes a second one
# for the same `Idempotency-Key` (`docs/decisions/0009-sending-once.md`).
sends = Table(
    "sends",
    metadata,
    Column("key_digest", String(64), primary_key=True, comment="of the API key's name and the key"),
    Column(
        "body_digest", String(64), nullable=False, comment="keyed, so nobody can guess the text"
    ),
    Column("attempt", String(32), nullable=False, comment="who wrote it down may conclude it"),
    Column("started_at", BigInteger, nullable=False, comment="us since 1970 UTC"),
    Column("status", SmallInteger, comment="HTTP's; NULL while it is under way"),
    Column("answer", Text, comment="JSON"),
    Index(None, "started_at"),  # the order in which they are forgotten
)

# Messages to ask PaaSoo about, until they are final or given up.
pulls = Table(
    "pulls",
    metadata,
    Column("message_id", Ascii, primary_key=True),
    Column("sent_at", BigInteger, nullable=False, comment="us since 1970 UTC"),
    Column("due_at", BigInteger, nullable=False, comment="of the next question; us since 1970 UTC"),
    Column("asked", Integer, nullable=False, comment="questions so far"),
    Index(None, "due_at"),
)

# One row: all replicas together ask no faster than PaaSoo bears.
pull_rate = Table(
    "pull_rate",
    metadata,
    Column(
        "next_at",
        BigInteger,
        nullable=False,
        comment="earliest time of any replica's next question; us since 1970 UTC",
    ),
)

# One row: all replicas sign the console's cookies with the same secret.
console_secret = Table(
    "console_secret",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False, comment="1: the only row"),
    Column("secret", String(64), nullable=False, comment="signs cookies"),
)

# Sessions of the console that were ended by signing out. Their cookies are void on every replica.
ended_sessions = Table(
    "ended_sessions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column(
        "expires_at",
        BigInteger,
        nullable=False,
        comment="when it may be forgotten; us since 1970 UTC",
    ),
    Index(None, "expires_at"),
)

# Addresses that changes are pushed to. Each is a cursor over the feed: there is no queue.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("url", Text, nullable=False),
    Column("events", String(8), nullable=False, comment="all, or final"),
    Column("max_items", Integer, nullable=False, comment="of one push"),
    Column("secret", Text, nullable=False, comment="signs the pushes"),
    Column("created_at", BigInteger, nullable=False, comment="us since 1970 UTC"),
    Column("cursor", Text, nullable=False, comment="all changes up to it were taken"),
    Column("repeat_until", Text, comment="the end of a push that failed, to be repeated"),
    Column(
        "caught_up_at",
        BigInteger,
        nullable=False,
        comment="all changes before this time were taken; us since 1970 UTC",
    ),
    Column("tries", BigInteger, nullable=False, comment="pushes so far"),
    Column(
        "failures", Integer, nullable=False, comment="pushes that failed since the last success"
    ),
    Column("next_try_at", BigInteger, nullable=False, comment="us since 1970 UTC"),
    Column("last_success_at", BigInteger, comment="us since 1970 UTC"),
    Column("last_error", Text, comment="while it fails"),
    Column("failing_since", BigInteger, comment="us since 1970 UTC"),
    Column("disabled", Boolean, nullable=False),
    Column("owner", String(32), comment="the process that pushes"),
    Column("leased_until", BigInteger, nullable=False, comment="us since 1970 UTC"),
)

# The latest pushes to each address, in a ring: a new one takes the place of the oldest.
webhook_tries = Table(
    "webhook_tries",
    metadata,
    Column("webhook_id", String(32), primary_key=True),
    Column("place", SmallInteger, primary_key=True, autoincrement=False, comment="in the ring"),
    Column("number", BigInteger, nullable=False, comment="of this push to the address, from 1"),
    Column("at", BigInteger, nullable=False, comment="us since 1970 UTC"),
    Column("duration_ms", Integer, nullable=False),
    Column("items", Integer, nullable=False),
    Column("status", SmallInteger, comment="HTTP's; NULL without an answer"),
    Column("error", Text, comment="NULL if it was taken"),
)

# When each callback token and API key was used last: written down once a minute.
last_uses = Table(
    "last_uses",
    metadata,
    Column("mark", Ascii, primary_key=True, comment="of a callback token or an API key"),
    Column("used_at", BigInteger, nullable=False, comment="us since 1970 UTC"),
)

# Refused callbacks: kept until an operator deletes or replays them, or newer ones push them out.
quarantine = Table(
    "quarantine",
    metadata,
    Column("id", String(32), primary_key=True, comment="hash of the raw query"),
    Column("received_at", BigInteger, nullable=False, comment="first; us since 1970 UTC"),
    Column("last_received_at", BigInteger, nullable=False, comment="us since 1970 UTC"),
    Column("times_received", Integer, nullable=False),
    Column("code", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Column("query", Text, nullable=False, comment="raw, non-printable bytes percent-encoded"),
    Index(None, "received_at", "id"),  # the order it is listed in, which repeats don't disturb
    Index(None, "last_received_at", "id"),  # the order in which it makes room,
)
