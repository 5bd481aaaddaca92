"""The only report of a delivery stands in the delivery's row; a trigger moves it when it must.

No row changes here: what is in `reports` stays there. A replica of the version before shows no
history of what a new one stored, and must run no `rebuild`. What it takes itself stands in
`reports`, a repeat of a report that a row holds, too.
"""

import sqlalchemy as sa
from alembic import op

from migrations.locking import lock

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

WORDS = "fingerprint", "status", "statuscode", "errcode", "mcc_mnc"
HISTORY = """INSERT INTO reports (message_id, recipient, fingerprint, received_at,
    last_received_at, times_received, state, reason, status, statuscode, errcode, mcc_mnc,
    source, query)"""
OF_DELIVERY = ", ".join(
    f"{{row}}.{column}"
    for column in (
        *("message_id", "recipient", "fingerprint", "first_received_at", "decided_at"),
        *("times_received", "state", "reason", "status", "statuscode", "errcode", "mcc_mnc"),
        *("source", "query"),
    )
)
# It is there already if a replica of the version before took a repeat, or if its delivery was
# deleted by hand.
ON_REPEAT = """ON CONFLICT (message_id, recipient, fingerprint) DO UPDATE SET
    times_received = reports.times_received + excluded.times_received,
    received_at = CASE WHEN excluded.received_at < reports.received_at
        THEN excluded.received_at ELSE reports.received_at END,
    last_received_at = CASE WHEN excluded.last_received_at > reports.last_received_at
        THEN excluded.last_received_at ELSE reports.last_received_at END"""
MOVE = f"{HISTORY} VALUES ({OF_DELIVERY.format(row='old')}) {ON_REPEAT};"


def upgrade() -> None:
    if not is_sqlite():
        lock(revision, "deliveries")
    for column in (
        sa.Column(
            "times_received",
            sa.Integer(),
            comment="of the only report, which this row holds; NULL if `reports` holds them all",
        ),
        sa.Column("source", sa.String(16), comment="of the only report"),
        sa.Column("query", sa.Text(), comment="of the only report"),
    ):
        op.add_column("deliveries", column)
    for statement in SQLITE if is_sqlite() else POSTGRESQL:
        op.execute(sa.text(statement.replace(":", "\\:")))


def downgrade() -> None:
    if is_sqlite():
        op.execute("DROP TRIGGER move_only_report")
    else:
        lock(revision, "deliveries")
        op.execute("DROP TRIGGER move_only_report ON deliveries")
        op.execute("DROP FUNCTION move_only_report")
    op.execute(f"""{HISTORY} SELECT {OF_DELIVERY.format(row="deliveries")}
        FROM deliveries WHERE times_received IS NOT NULL {ON_REPEAT}""")
    for column in ("query", "source", "times_received"):
        op.drop_column("deliveries", column)


def is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def words(row: str) -> str:
    return "(" + ", ".join(f"{row}.{word}" for word in WORDS) + ")"


# The row holds it no longer, or says something else.
MUST_MOVE = "old.times_received IS NOT NULL AND (new.times_received IS NULL OR {differs})"
POSTGRESQL = (
    f"""
    CREATE FUNCTION move_only_report() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        {MOVE}
        new.times_received := NULL;
        new.source := NULL;
        new.query := NULL;
        RETURN new;
    END $$
    """,
    f"""
    CREATE TRIGGER move_only_report BEFORE UPDATE ON deliveries FOR EACH ROW
    WHEN ({MUST_MOVE.format(differs=f"{words('new')} IS DISTINCT FROM {words('old')}")})
    EXECUTE FUNCTION move_only_report()
    """,
)
SQLITE = (
    f"""
    CREATE TRIGGER move_only_report AFTER UPDATE ON deliveries
    WHEN {MUST_MOVE.format(differs=f"{words('new')} IS NOT {words('old')}")}
    BEGIN
        {MOVE}
        UPDATE deliveries SET times_received = NULL, source = NULL, query = NULL
            WHERE message_id = old.message_id AND recipient = old.recipient;
    END
    """,
)
