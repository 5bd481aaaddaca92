"""Addresses that changes are pushed to, and the latest pushes to each."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.String(length=8), nullable=False, comment="all, or final"),
        sa.Column("max_items", sa.Integer(), nullable=False, comment="of one push"),
        sa.Column("secret", sa.Text(), nullable=False, comment="signs the pushes"),
        sa.Column("created_at", sa.BigInteger(), nullable=False, comment="us since 1970 UTC"),
        sa.Column("cursor", sa.Text(), nullable=False, comment="all changes up to it were taken"),
        sa.Column(
            "repeat_until", sa.Text(), comment="the end of a push that failed, to be repeated"
        ),
        sa.Column(
            "caught_up_at",
            sa.BigInteger(),
            nullable=False,
            comment="all changes before this time were taken; us since 1970 UTC",
        ),
        sa.Column("tries", sa.BigInteger(), nullable=False, comment="pushes so far"),
        sa.Column(
            "failures",
            sa.Integer(),
            nullable=False,
            comment="pushes that failed since the last success",
        ),
        sa.Column("next_try_at", sa.BigInteger(), nullable=False, comment="us since 1970 UTC"),
        sa.Column("last_success_at", sa.BigInteger(), comment="us since 1970 UTC"),
        sa.Column("last_error", sa.Text(), comment="while it fails"),
        sa.Column("failing_since", sa.BigInteger(), comment="us since 1970 UTC"),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.String(length=32), comment="the process that pushes"),
        sa.Column("leased_until", sa.BigInteger(), nullable=False, comment="us since 1970 UTC"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "webhook_tries",
        sa.Column("webhook_id", sa.String(length=32), nullable=False),
        sa.Column(
            "place",
            sa.SmallInteger(),
            autoincrement=False,
            nullable=False,
            comment="in the ring",
        ),
        sa.Column(
            "number",
            sa.BigInteger(),
            nullable=False,
            comment="of this push to the address, from 1",
        ),
        sa.Column("at", sa.BigInteger(), nullable=False, comment="us since 1970 UTC"),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("status", sa.SmallInteger(), comment="HTTP's; NULL without an answer"),
        sa.Column("error", sa.Text(), comment="NULL if it was taken"),
        sa.PrimaryKeyConstraint("webhook_id", "place", name=op.f("pk_webhook_tries")),
    )


def downgrade() -> None:
    op.drop_table("webhook_tries")
    op.drop_table("webhooks")
