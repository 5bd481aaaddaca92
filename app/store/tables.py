"""The tables, as the migrations make them.

Times are BIGINT, microseconds since 1970 UTC, on both databases: they sort, subtract and group
alike on both, and cost nothing to bind (`docs/decisions/0002-times-as-integers.md`).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
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

# Ids are ASCII and compared to the letter: no locale has a say in their order.
Ascii = Text().with_variant(Text(collation="C"), "postgresql")

# The history: every distinct report that ever came, never changed but for how often it came.
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
    Column("source", String(16), nullable=False, comment="how it came to us"),
    Column("query", Text, nullable=False, comment="raw, non-printable bytes percent-encoded"),
    sqlite_with_rowid=False,
)

# The current status of each delivery: the fold of its reports.
deliveries = Table(
    "deliveries",
    metadata,
    Column("message_id", Ascii, primary_key=True),
    Column("recipient", Ascii, primary_key=True, comment="MSISDN: digits, country code first"),
    # What decides: the greatest (rank, decided_at, fingerprint) of all reports.
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
    Column("last_received_at", BigInteger, comment="us since 1970 UTC"),
    Column("submitted_at", BigInteger, comment="when it was sent; us since 1970 UTC"),
    Column("reference", Text, comment="the sender's own name for it"),
    sqlite_with_rowid=False,
)

# What the door refused: kept until an operator looked at it, or newer ones pushed it out.
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
