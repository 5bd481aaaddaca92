"""Messages to ask PaaSoo about, and what its answers say of price and parts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "deliveries", sa.Column("price", sa.Text(), nullable=True, comment="PaaSoo's, as it came")
    )
    op.add_column(
        "deliveries",
        sa.Column("parts", sa.Integer(), nullable=True, comment="that the text was split into"),
    )
    op.create_table(
        "pulls",
        sa.Column(
            "message_id",
            sa.Text().with_variant(sa.Text(collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("sent_at", sa.BigInteger(), nullable=False, comment="us since 1970 UTC"),
        sa.Column(
            "due_at",
            sa.BigInteger(),
            nullable=False,
            comment="of the next question; us since 1970 UTC",
        ),
        sa.Column("asked", sa.Integer(), nullable=False, comment="questions so far"),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_pulls")),
    )
    op.create_index(op.f("ix_pulls_due_at"), "pulls", ["due_at"])
    op.create_table(
        "pull_rate",
        sa.Column(
            "next_at",
            sa.BigInteger(),
            nullable=False,
            comment="earliest time of any replica's next question; us since 1970 UTC",
        ),
    )
    op.execute("INSERT INTO pull_rate (next_at) VALUES (0)")


def downgrade() -> None:
    op.drop_table("pull_rate")
    op.drop_table("pulls")
    op.drop_column("deliveries", "parts")
    op.drop_column("deliveries", "price")
