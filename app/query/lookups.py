"""Lookups by id: requests that come at the same time share a query, as callbacks share a commit."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from pydantic_core import to_json
from sqlalchemy import Row

from app import exchange
from app.api.compression import compressed
from app.api.failures import answer_to
from app.api.request_log import log_request
from app.api.uses import Uses
from app.errors import MessageNotFoundError
from app.exchange import Answer, Handler, Reply, Request, request_id, values_of
from app.guards import known_key
from app.ingest.outage import Outage
from app.query.schemas import message_of
from app.settings import ApiKey
from app.store import read
from app.store.engine import Database
from app.telemetry import Metrics

MAX_IDS: Final = 500  # in one query

PATH: Final = "/v1/messages/"
MAX_PLAIN_LENGTH: Final = 64
ROUTE: Final = "/v1/messages/{messageid}"


class Lookups:
    """Collects the ids that are asked for while a query runs, and finds them all in the next one.

    Everything runs on the event loop, except `_find`, which has a thread of its own.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[str, asyncio.Future[Sequence[Row[Any]]]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "lookups")

    def deliveries_of(self, message_id: str) -> "asyncio.Future[Sequence[Row[Any]]]":
        """The deliveries of a message, ordered by recipient; none if the message is unknown.

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
            except Exception as error:  # noqa: BLE001 - raised where the callers wait
                for _, future in asked:
                    if not future.done():
                        future.set_exception(error)
                continue
            for message_id, future in asked:
                if not future.done():  # the caller may have left
                    future.set_result(found.get(message_id, ()))
        self._asking = None

    def _find(self, message_ids: Sequence[str]) -> Mapping[str, Sequence[Row[Any]]]:
        with self._database.read.connect() as connection:
            return read.deliveries_of_each(connection, message_ids)


def shortcut(
    lookups: Lookups, keys: Sequence[ApiKey], outage: Outage, metrics: Metrics, uses: Uses
) -> Callable[[Request], Handler | None]:
    """The shortcut for plain lookups with a known key, outside an outage.

    The way through FastAPI takes several times as long as the lookup. Any other request goes
    that way: with parameters, say, or with a mistake that FastAPI explains.
    """

    def handler_of(request: Request) -> Handler | None:
        if request.method != "GET" or request.query or outage.is_on:
            return None
        if values_of(request.headers, b"content-length"):  # the router knows how long it may be
            return None
        message_id = request.raw_path.decode("ascii").removeprefix(PATH)
        if not message_id.isalnum() or len(message_id) > MAX_PLAIN_LENGTH:
            return None
        presented = values_of(request.headers, b"authorization")
        if len(presented) != 1 or not presented[0].startswith(b"Bearer "):
            return None
        key = known_key(keys, presented[0].removeprefix(b"Bearer ").decode("latin-1"))
        if key is None:
            return None
        uses.note(key)
        return partial(_look_up, lookups, metrics, message_id, key)

    return handler_of


def _look_up(  # noqa: PLR0913, PLR0917 - the first four are bound at once
    lookups: Lookups,
    metrics: Metrics,
    message_id: str,
    key: ApiKey,
    request: Request,
    reply: Reply,
) -> None:
    began = time.perf_counter()

    def conclude(found: asyncio.Future[Sequence[Row[Any]]]) -> None:
        name = request_id(request.headers)
        answer = _answer_of(message_id, found, request).with_header(b"x-request-id", name)
        metrics.requests.add(
            ROUTE, request.path, request.method, answer.status, time.perf_counter() - began
        )
        log_request(
            method=request.method,
            route=ROUTE,
            status=answer.status,
            began=began,
            key=key,
            peer=request.peer,
            request_id=name,
        )
        reply(answer)

    lookups.deliveries_of(message_id).add_done_callback(conclude)


def _answer_of(
    message_id: str, found: asyncio.Future[Sequence[Row[Any]]], request: Request
) -> Answer:
    try:
        deliveries = found.result()
        if not deliveries:
            raise MessageNotFoundError(message_id)  # noqa: TRY301 - one way out
        body = to_json(message_of(deliveries))
        return compressed(request, exchange.answer(200, "application/json", body))
    except Exception as error:  # noqa: BLE001
        return answer_to(error)
