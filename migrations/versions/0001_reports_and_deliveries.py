"""The history of reports, the status of each delivery, and the quarantine."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Ids are ASCII and compared to the letter: no locale has a say in their order.
Ascii = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "reports",
        sa.Column("message_id", Ascii, nullable=False),
        sa.Column("recipient", Ascii, nullable=False, comment="MSISDN: digits, country code first"),
        sa.Column(
            "fingerprint",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="of status, statuscode, errcode and mcc_mnc: equal means the same report",
        ),
        sa.Column(
            "received_at", sa.BigInteger(), nullable=False, comment="first; us since 1970 UTC"
        ),
        sa.Column("last_received_at", sa.BigInteger(), nullable=False, comment="us since 1970 UTC"),
        sa.Column("times_received", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("status", sa.Integer(), nullable=False, comment="PaaSoo's"),
        sa.Column("statuscode", sa.Text(), nullable=True, comment="PaaSoo's"),
        sa.Column("errcode", sa.Text(), nullable=True, comment="PaaSoo's"),
        sa.Column("mcc_mnc", sa.Text(), nullable=True, comment="PaaSoo's network"),
        sa.Column("source", sa.String(length=16), nullable=False, comment="how it came to us"),
        sa.Column(
            "query",
            sa.Text(),
            nullable=False,
            comment="raw, non-printable bytes percent-encoded",
        ),
        sa.PrimaryKeyConstraint("message_id", "recipient", "fingerprint", name=op.f("pk_reports")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "deliveries",
        sa.Column("message_id", Ascii, nullable=False),
        sa.Column("recipient", Ascii, nullable=False, comment="MSISDN: digits, country code first"),
        sa.Column("rank", sa.SmallInteger(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=False, comment="us since 1970 UTC"),
        sa.Column("fingerprint", sa.BigInteger(), nullable=False, comment="of the deciding report"),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("statuscode", sa.Text(), nullable=True),
        sa.Column("errcode", sa.Text(), nullable=True),
        sa.Column("mcc_mnc", sa.Text(), nullable=True),
        sa.Column(
            "conflicting", sa.Boolean(), nullable=False, comment="two final reports disagree"
        ),
        sa.Column("first_received_at", sa.BigInteger(), nullable=True, comment="us since 1970 UTC"),
        sa.Column("last_received_at", sa.BigInteger(), nullable=True, comment="us since 1970 UTC"),
        sa.Column(
            "submitted_at",
            sa.BigInteger(),
            nullable=True,
            comment="when it was sent; us since 1970 UTC",
        ),
        sa.Column("reference", sa.Text(), nullable=True, comment="the sender's own name for it"),
        sa.PrimaryKeyConstraint("message_id", "recipient", name=op.f("pk_deliveries")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quarantine",
        sa.Column("id", sa.String(length=32), nullable=False, comment="hash of the raw query"),
        sa.Column(
            "received_at", sa.BigInteger(), nullable=False, comment="first; us since 1970 UTC"
        ),
        sa.Column("last_received_at", sa.BigInteger(), nullable=False, comment="us since 1970 UTC"),
        sa.Column("times_received", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column(
            "query",
            sa.Text(),
            nullable=False,
            comment="raw, non-printable bytes percent-encoded",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
    )
    op.create_index("ix_quarantine_received_at_id", "quarantine", ["received_at", "id"])
    op.create_index("ix_quarantine_last_received_at_id", "quarantine", ["last_received_at", "id"])


def downgrade() -> None:
    op.drop_table("quarantine")
    op.drop_table("deliveries")
    op.drop_table("reports")
