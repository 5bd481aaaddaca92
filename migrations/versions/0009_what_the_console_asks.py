"""What the console asks: contradictory deliveries, and the last use of tokens and keys."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    contradictory = sa.text("conflicting")
    op.create_index(
        "ix_deliveries_conflicting",
        "deliveries",
        ["last_received_at", "message_id", "recipient"],
        postgresql_where=contradictory,
        sqlite_where=contradictory,
    )
    op.create_table(
        "last_uses",
        sa.Column(
            "mark",
            sa.Text().with_variant(sa.Text(collation="C"), "postgresql"),
            nullable=False,
            comment="of a callback token or an API key",
        ),
        sa.Column("used_at", sa.BigInteger(), nullable=False, comment="us since 1970 UTC"),
        sa.PrimaryKeyConstraint("mark", name=op.f("pk_last_uses")),
    )


def downgrade() -> None:
    op.drop_table("last_uses")
    op.drop_index("ix_deliveries_conflicting", "deliveries")
