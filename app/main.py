"""Builds, starts and stops every part."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from app.callback.door import PATH as CALLBACK_PATH
from app.callback.door import Door, peer
from app.callback.endpoint import callback_router
from app.callback.parse import understand
from app.errors import (
    PROBLEM_TYPE,
    ApiError,
    DatabaseUnavailableError,
    InvalidRequestError,
    NotFoundError,
    Problem,
    encode,
    problem,
)
from app.ingest.commit import Committer
from app.ingest.outage import Outage
from app.ingest.recovery import Recovery
from app.ingest.writer import Writer
from app.ops import docs, health, upkeep
from app.ops.periodic import Periodic
from app.quarantine import endpoint as quarantine_endpoint
from app.query import changes, deliveries, messages, stats
from app.query.lookups import ROUTE as LOOKUP_ROUTE
from app.query.lookups import Lookups, look_up, usual_lookup
from app.query.waiting import Watch
from app.sending import endpoint as sending_endpoint
from app.sending.once import Sending
from app.sending.paasoo_client import PaasooClient
from app.settings import Settings
from app.store import faults
from app.store.engine import Database, open_database
from app.store.spool import Spool
from app.telemetry import Metrics

log = logging.getLogger(__name__)

# What Pydantic says for people who know it.
PLAINLY: Final = {
    "json_invalid": "must be valid JSON",
    "model_attributes_type": "must be a JSON object, with `Content-Type: application/json`",
    "missing": "is missing",
    "extra_forbidden": "no such field",
}

# Asked every few seconds by machines: their lines would hide the others.
PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})


def create_app(settings: Settings) -> FastAPI:
    """The service as an ASGI application. The settings have a token or networks, and keys."""
    metrics = Metrics()
    database = open_database(settings.database)
    spool = Spool.claim(settings.data_dir, settings.spool_max_bytes) if settings.has_spool else None
    committer = Committer(database, metrics, settings.quarantine_max_rows)
    outage = Outage(is_embedded=database.is_embedded, has_spool=spool is not None)
    recovery = Recovery(committer, outage, spool, understand, settings)
    periodic = Periodic(upkeep.jobs(settings, database, metrics), outage)
    writer = Writer(committer, outage, spool, metrics, settings.queue_limit)
    door = Door(settings, writer, metrics)
    draining = threading.Event()
    sending = sending_of(settings, database, metrics, draining)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if not database.is_embedded:
            await run_in_threadpool(recovery.start)
        periodic.start()
        yield
        periodic.stop()
        recovery.stop()
        await writer.stop(timeout_s=0.5)
        if sending is not None:
            await sending.client.close()
        loop = asyncio.get_running_loop()
        for thread in (periodic, recovery):
            if await loop.run_in_executor(None, thread.is_running, 0.5):
                return  # it still holds what would be closed; the end of the process does that
        if spool is not None:
            spool.close()
        database.close()

    app = Service(
        title="PaaSoo delivery-report receiver",
        version=version("paasoo-dlr"),
        description="Takes PaaSoo's delivery reports and answers what became of each message.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.door = door
    app.state.metrics = metrics
    app.state.database = database
    app.state.writer = writer
    app.state.outage = outage
    app.state.spool = spool
    app.state.lookups = Lookups(database)
    app.state.watch = Watch(database, outage, writer)
    app.state.sending = sending
    app.state.draining = draining
    app.include_router(callback_router(door, with_token=bool(settings.callback_tokens)))
    app.include_router(messages.router)
    app.include_router(deliveries.router)
    app.include_router(changes.router)
    app.include_router(stats.router)
    app.include_router(sending_endpoint.router)
    app.include_router(quarantine_endpoint.router)
    app.include_router(health.router)
    docs.add_docs(app)
    add_error_handlers(app)
    return app


def sending_of(
    settings: Settings, database: Database, metrics: Metrics, draining: threading.Event
) -> Sending | None:
    """What sends, where there is an account to send with."""
    key, secret = settings.paasoo_key, settings.paasoo_secret
    if key is None or secret is None:
        return None
    client = PaasooClient(settings.paasoo_url, key.get_secret_value(), secret.get_secret_value())
    return Sending(database, client, metrics, draining, since=time.time_ns() // 1000)


class Service(FastAPI):
    """FastAPI, with three things settled before it routes.

    The callback is answered right away: its endpoint is one of FastAPI's routes, and calling the
    same function here only spares it the walk through middleware and dependencies that it does
    not use, which costs twice what all the rest does. A plain lookup by id likewise.

    And `/v1/` is routed by the path as it was sent, so that an id may have a `/` in it, as `%2F`.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif scope["path"].startswith(CALLBACK_PATH):
            answer = await self.state.door(scope)
            await send_answer(send, answer.status, answer.headers, answer.body)
        else:
            if scope["path"].startswith("/v1/"):
                scope["path"] = scope["raw_path"].decode("ascii")
            # The proxy stripped the prefix; routing strips it once more.
            scope["root_path"] = self.state.settings.root_path or ""
            scope["path"] = scope["root_path"] + scope["path"]
            await self._answer_and_log(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The document, with the shape of the errors that all responses refer to."""
        document = super().openapi()
        document["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
        return document

    async def _answer_and_log(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One line a request, of what is no secret: neither path nor query as sent."""
        started = time.perf_counter()
        status = 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        route = key_name = None
        try:
            usual = usual_lookup(scope, self.state.settings.api_keys)
            if usual and not self.state.outage.is_on:
                message_id, key_name = usual
                route = LOOKUP_ROUTE
                try:
                    body = await look_up(self.state.lookups, message_id)
                    await send_json(note_status, body)
                except ApiError as error:
                    response = problem_response(error.document(), error.headers)
                    await response(scope, receive, note_status)
            else:
                await super().__call__(scope, receive, note_status)
        finally:
            route = route or getattr(scope.get("route"), "path", None)
            log.log(
                logging.DEBUG if route in PROBES else logging.INFO,
                "request",
                extra={
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "milliseconds": round((time.perf_counter() - started) * 1000, 1),
                    "key": key_name or scope.get("state", {}).get("key_name"),
                    **peer(scope),
                },
            )


async def send_json(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send_answer(send, 200, headers, body)


async def send_answer(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def add_error_handlers(app: FastAPI) -> None:
    """Every error in one shape, whoever raised it."""

    @app.exception_handler(ApiError)
    async def on_api_error(_request: Request, error: ApiError) -> Response:
        return problem_response(error.document(), error.headers)

    @app.exception_handler(404)
    async def on_unknown_path(_request: Request, _error: HTTPException) -> Response:
        return problem_response(NotFoundError().document())

    @app.exception_handler(400)
    async def on_unreadable_body(_request: Request, _error: HTTPException) -> Response:
        found = [{"field": "body", "message": "must be JSON in UTF-8"}]
        return problem_response(InvalidRequestError(found).document())

    @app.exception_handler(405)
    async def on_wrong_method(_request: Request, error: HTTPException) -> Response:
        document = problem(405, "method_not_allowed", "this path doesn't take this method")
        return problem_response(document, error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(_request: Request, error: RequestValidationError) -> Response:
        found = [
            {
                "field": ".".join(
                    str(place) for place in problem["loc"][1:] if problem["type"] != "json_invalid"
                )
                or "body",
                "message": PLAINLY.get(
                    problem["type"], problem["msg"].removeprefix("Value error, ")
                ),
            }
            for problem in error.errors()
        ]
        return problem_response(InvalidRequestError(found).document())

    @app.exception_handler(SQLAlchemyError)
    async def on_database_error(_request: Request, error: SQLAlchemyError) -> Response:
        log.error("a lookup failed", extra={"error": faults.description(error)})
        return problem_response(
            DatabaseUnavailableError().document(), DatabaseUnavailableError.headers
        )

    @app.exception_handler(Exception)
    async def on_our_fault(_request: Request, _error: Exception) -> Response:
        # The error itself is logged by the server, which sees it next.
        return problem_response(problem(500, "internal_error", "this is our fault; it is logged"))


def problem_response(document: dict[str, object], headers: Any = None) -> Response:
    return Response(
        encode(document), int(str(document["status"])), headers, media_type=PROBLEM_TYPE
    )
