"""Several deliveries, by their keys."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Table, and_, tuple_


def have_keys(table: Table, keys: Sequence[tuple[str, str]]) -> ColumnElement[bool]:
    """True for the rows with one of these message ids and recipients.

    To delete by an index, SQLite needs the ids alone as well: by pairs it reads the whole table.
    """
    pairs = tuple_(table.c.message_id, table.c.recipient).in_(keys)
    return and_(table.c.message_id.in_({message_id for message_id, _ in keys}), pairs)
