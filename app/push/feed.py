"""What each address hasn't got yet, read for all of them together."""

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection

from app.push.push import position_of
from app.query.schemas import Change
from app.store import changes
from app.store.changes import BEGINNING, Position
from app.store.engine import Database
from app.store.webhooks import Webhook

# Pages that one look reads, and the changes of each. More would delay the next renewal of leases.
MAX_PAGES: Final = 10
MAX_CHANGES: Final = 1000


@dataclass(frozen=True, slots=True)
class Unread:
    """The changes after a position, at most `MAX_CHANGES`, as they were at one moment."""

    begin: Position
    changes: Sequence[Change]
    is_all: bool  # no more can be read now
    caught_up_at: int | None  # whoever has these had everything then; us since 1970 UTC
    history: str | None  # the server whose positions these are

    def has_all_for(self, webhook: Webhook) -> bool:
        """True if a webhook's next changes are here: all of a push that is to be repeated."""
        last = max(webhook.cursor, webhook.repeat_until or BEGINNING)
        end = self.changes[-1].position if self.changes else self.begin
        return webhook.cursor >= self.begin and (self.is_all or last < end)

    def of(self, webhook: Webhook) -> "Unread":
        """The part behind a webhook's cursor."""
        first = bisect_right(self.changes, webhook.cursor, key=position_of)
        return replace(self, begin=webhook.cursor, changes=self.changes[first:])


def unread_of(database: Database, waiting: Sequence[Webhook]) -> dict[str, Unread]:
    """The changes that each webhook waits for, by its id. Equally far ones share a page.

    Those at the end of `waiting` may be left out: their turn comes with the next look.
    """
    found: dict[str, Unread] = {}
    pages: list[Unread] = []
    with database.read.connect() as connection:
        history = changes.history(connection)
        for webhook in waiting:
            page = next((it for it in pages if it.has_all_for(webhook)), None)
            if page is None and len(pages) < MAX_PAGES:
                page = _page_after(connection, webhook.cursor, history)
                pages.append(page)
            if page is not None:
                found[webhook.id] = page.of(webhook)
    return found


def _page_after(connection: Connection, position: Position, history: str | None) -> Unread:
    now = time.time_ns() // 1000
    page = [Change.of(row) for row in changes.after(connection, position, MAX_CHANGES)]
    is_all = len(page) < MAX_CHANGES
    end = page[-1].position if page else position
    # Changes that an open transaction holds back are there, though they can't be read yet.
    has_everything = is_all and not changes.count_after(connection, end, 1)
    return Unread(position, page, is_all, now if has_everything else None, history)
