"""Calls of the send API, so that none is made twice."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sends",
        sa.Column(
            "key_digest",
            sa.String(length=64),
            nullable=False,
            comment="of the API key's name and the key",
        ),
        sa.Column(
            "body_digest",
            sa.String(length=64),
            nullable=False,
            comment="keyed, so nobody can guess the text",
        ),
        sa.Column(
            "attempt",
            sa.String(length=32),
            nullable=False,
            comment="who wrote it down may conclude it",
        ),
        sa.Column("started_at", sa.BigInteger(), nullable=False, comment="us since 1970 UTC"),
        sa.Column(
            "status", sa.SmallInteger(), nullable=True, comment="HTTP's; NULL while it is under way"
        ),
        sa.Column("answer", sa.Text(), nullable=True, comment="JSON"),
        sa.PrimaryKeyConstraint("key_digest", name=op.f("pk_sends")),
    )
    op.create_index(op.f("ix_sends_started_at"), "sends", ["started_at"])


def downgrade() -> None:
    op.drop_table("sends")
