"""The console's signing secret, and the sessions that were ended before their time."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "console_secret",
        sa.Column(
            "id", sa.SmallInteger(), autoincrement=False, nullable=False, comment="1: the only row"
        ),
        sa.Column("secret", sa.String(length=64), nullable=False, comment="signs cookies"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_console_secret")),
    )
    op.create_table(
        "ended_sessions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column(
            "expires_at",
            sa.BigInteger(),
            nullable=False,
            comment="when it may be forgotten; us since 1970 UTC",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ended_sessions")),
    )
    op.create_index(op.f("ix_ended_sessions_expires_at"), "ended_sessions", ["expires_at"])


def downgrade() -> None:
    op.drop_table("ended_sessions")
    op.drop_table("console_secret")
