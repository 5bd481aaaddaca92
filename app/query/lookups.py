"""Lookups by id: those that come at the same time share a query, as callbacks share a commit."""

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from pydantic_core import to_json
from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from app.errors import DatabaseUnavailableError, MessageNotFoundError
from app.guards import known_key
from app.query.schemas import message_of
from app.settings import ApiKey
from app.store import read
from app.store.engine import Database

MAX_IDS: Final = 500  # a query

PATH: Final = b"/v1/messages/"
MAX_USUAL_LENGTH: Final = 64
ROUTE: Final = "/v1/messages/{messageid}"


class Lookups:
    """What is asked for while a query runs is asked in the next, all at once.

    All of this runs on the event loop but `_find`, on the one thread that asks the database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[str, asyncio.Future[Sequence[Row[Any]]]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "lookups")

    def deliveries_of(self, message_id: str) -> "asyncio.Future[Sequence[Row[Any]]]":
        """The deliveries of a message, ordered by recipient; none where it is not known.

        Raises SQLAlchemy's errors.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[Row[Any]]] = loop.create_future()
        self._waiting.append((message_id, future))
        if self._asking is None:
            self._asking = loop.create_task(self._ask())
        return future

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            asked, self._waiting = self._waiting[:MAX_IDS], self._waiting[MAX_IDS:]
            ids = [message_id for message_id, _ in asked]
            try:
                found = await loop.run_in_executor(self._thread, self._find, ids)
            except Exception as error:  # noqa: BLE001 - it is theirs who asked
                for _, future in asked:
                    if not future.done():
                        future.set_exception(error)
                continue
            for message_id, future in asked:
                if not future.done():  # its caller may have left
                    future.set_result(found.get(message_id, ()))
        self._asking = None

    def _find(self, message_ids: Sequence[str]) -> Mapping[str, Sequence[Row[Any]]]:
        with self._database.read.connect() as connection:
            return read.deliveries_of_each(connection, message_ids)


def usual_lookup(scope: MutableMapping[str, Any], keys: Sequence[ApiKey]) -> tuple[str, str] | None:
    """The message id and the key's name, where a request is a plain lookup with a known key.

    FastAPI's way to an endpoint takes several times as long as the lookup. Whatever has anything
    unusual about it, a mistake say, is None, and goes that way to be told so.
    """
    raw_path: bytes = scope["raw_path"]
    if scope["method"] != "GET" or scope["query_string"] or not raw_path.startswith(PATH):
        return None
    message_id = raw_path[len(PATH) :].decode("ascii")
    if not message_id.isalnum() or len(message_id) > MAX_USUAL_LENGTH:
        return None
    presented = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(presented) != 1 or not presented[0].startswith(b"Bearer "):
        return None
    key = known_key(keys, presented[0][len(b"Bearer ") :].decode("latin-1"))
    return None if key is None else (message_id, key.name)


async def look_up(lookups: Lookups, message_id: str) -> bytes:
    """The message as JSON. Raises `MessageNotFoundError`, `DatabaseUnavailableError`."""
    try:
        deliveries = await lookups.deliveries_of(message_id)
    except SQLAlchemyError:
        raise DatabaseUnavailableError from None
    if not deliveries:
        raise MessageNotFoundError(message_id)
    return to_json(message_of(deliveries))
