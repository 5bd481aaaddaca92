"""The key of a delivery, and several deliveries by their keys."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, Table, and_, tuple_

from app.store.tables import deliveries

KEY: Final = (deliveries.c.message_id, deliveries.c.recipient)


def have_keys(table: Table, keys: Sequence[tuple[str, str]]) -> ColumnElement[bool]:
    """True for the rows with one of these message ids and recipients.

    To delete by an index, SQLite needs the ids alone as well: by pairs it reads the whole table.
    """
    pairs = tuple_(table.c.message_id, table.c.recipient).in_(keys)
    return and_(table.c.message_id.in_({message_id for message_id, _ in keys}), pairs)
