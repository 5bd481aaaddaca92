"""The feed remembers which server's transaction numbers its base was made for."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("feed", sa.Column("history", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("feed", "history")
