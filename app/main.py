"""Build every part, start and stop them, and put the application together."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from platform import python_version
from typing import Final

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute

from app.api.compression import COMPRESSION
from app.api.parts import Parts
from app.api.service import Service
from app.api.uses import Uses
from app.callback.door import PATH as CALLBACK_PATH
from app.callback.door import Door
from app.callback.endpoint import add_callback
from app.console.routes import PATHS, add_console, error_handlers
from app.console.sessions import Sessions
from app.http.dispatch import Shortcut
from app.ingest.commit import Committer
from app.ingest.outage import Outage
from app.ingest.recovery import Recovery
from app.ingest.writer import Writer
from app.ops import docs, health, upkeep
from app.ops.counting import RowCounts
from app.ops.periodic import Periodic
from app.pulling import endpoint as pulling
from app.pulling.asking import Asking
from app.pulling.spooled import understand_spooled
from app.pulling.worker import PullWorker
from app.push import endpoint as push
from app.push.worker import PushWorker
from app.quarantine import endpoint as quarantine
from app.query import changes, deliveries, messages, stats
from app.query.lookups import PATH as LOOKUP_PATH
from app.query.lookups import Lookups, shortcut
from app.query.waiting import Watch
from app.sending import account
from app.sending import endpoint as sending
from app.sending.balance import OUTCOMES, Balance
from app.sending.once import Sending
from app.sending.paasoo_client import PaasooClient
from app.sending.problems import CALL_CODES
from app.settings import Settings
from app.store.engine import Database, open_database
from app.store.pulls import Schedule
from app.store.spool import Spool
from app.store.stats import HOUR
from app.telemetry import Metrics, expect

ROUTERS: Final = (
    messages.router,
    deliveries.router,
    changes.router,
    stats.router,
    sending.router,
    pulling.router,
    account.router,
    push.router,
    quarantine.router,
    health.router,
)

# In the order in which the documentation shows them.
TAGS: Final = [
    {"name": "status", "description": "The status of messages and deliveries, and statistics."},
    {"name": "changes", "description": "The feed of changes: none is ever skipped."},
    {
        "name": "sending",
        "description": "Send through PaaSoo, or register what was sent elsewhere; the account.",
    },
    {"name": "webhooks", "description": "Addresses that changes are pushed to."},
    {"name": "callback", "description": "The address that PaaSoo calls with each report."},
    {"name": "quarantine", "description": "Callbacks that were refused: look, replay, delete."},
    {"name": "operations", "description": "Probes and metrics."},
]


def name_of(route: APIRoute) -> str:
    """The operation's id: the endpoint function's name, which generators make a method of."""
    return route.name


def all_routes() -> list[BaseRoute]:
    api = APIRouter(generate_unique_id_function=name_of)
    for router in ROUTERS:
        api.include_router(router)
    return api.routes


# The same for every application of a process: FastAPI analyses the endpoints of a router for each
# that includes it, which takes ten times as long as building all parts.
ROUTES: Final = all_routes()


def create_app(settings: Settings) -> Service:
    """Build the ASGI application. The settings must have keys, and tokens or allowed networks."""
    parts = build(settings)
    app = Service(
        parts,
        prefix=settings.root_path or "",
        silent_prefix=CALLBACK_PATH,
        title="PaaSoo delivery-report receiver",
        version=version("paasoo-dlr"),
        description="Takes PaaSoo's delivery reports and answers what became of each message.",
        lifespan=lambda _app: running(parts),
        license_info={"name": "MIT", "identifier": "MIT"},
        openapi_tags=TAGS,
        servers=[{"url": settings.root_path or "/"}],
        generate_unique_id_function=name_of,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[COMPRESSION],
        exception_handlers={**error_handlers(has_console=settings.console)},
    )
    add_callback(app, parts.door, with_token=bool(settings.callback_tokens))
    app.router.routes.extend(ROUTES)
    docs.add_docs(app)
    if settings.console:
        add_console(app)
    for route, methods in app.routes_with_methods():
        # A page may lead to another: to that for signing in, say.
        parts.metrics.requests.expect(route, methods - {"HEAD"}, redirects=route in PATHS)
    return app


def build(settings: Settings) -> Parts:
    """Build every part, without starting any."""
    metrics = metrics_of(settings)
    database = open_database(settings.database)
    spool = Spool.claim(settings.data_dir, settings.spool_max_bytes) if settings.has_spool else None
    committer = Committer(database, metrics, settings.quarantine_max_rows)
    outage = Outage(is_embedded=database.is_embedded, has_spool=spool is not None)
    writer = Writer(committer, outage, spool, metrics, settings.queue_limit)
    door = Door(settings, writer, metrics)
    uses = Uses(settings, metrics.callback_tokens.times)
    lookups = Lookups(database)
    draining = threading.Event()
    sender = sending_of(settings, database, metrics, draining)
    return Parts(
        settings=settings,
        metrics=metrics,
        database=database,
        spool=spool,
        outage=outage,
        writer=writer,
        recovery=Recovery(committer, outage, spool, understand_spooled, settings),
        periodic=Periodic(upkeep.jobs(settings, database, metrics, outage, uses), outage),
        row_counts=RowCounts(database, outage),
        door=door,
        uses=uses,
        lookups=lookups,
        watch=Watch(database, outage, writer),
        sending=sender,
        balance=balance_of(settings, sender, metrics),
        asking=asking_of(settings, sender, writer, door.take_time),
        pushing=PushWorker(database, outage, settings.webhook_allowed_networks, metrics),
        sessions=Sessions(database, settings.api_keys) if settings.console else None,
        shortcuts=(
            Shortcut(CALLBACK_PATH, lambda _request: door.receive),
            Shortcut(LOOKUP_PATH, shortcut(lookups, settings.api_keys, outage, metrics, uses)),
        ),
        draining=draining,
    )


def metrics_of(settings: Settings) -> Metrics:
    """The metrics, with the limits and the label values that only other parts know."""
    metrics = Metrics()
    metrics.tell_build(
        version("paasoo-dlr"), python_version(), settings.database.get_backend_name()
    )
    expect(metrics.sends, ["sent", *CALL_CODES])
    expect(metrics.balance_questions, OUTCOMES)
    metrics.queue_limit.set(settings.queue_limit)
    metrics.spool_limit_bytes.set(settings.spool_max_bytes if settings.has_spool else 0)
    return metrics


def sending_of(
    settings: Settings, database: Database, metrics: Metrics, draining: threading.Event
) -> Sending | None:
    """The sender, if there is an account to send with."""
    key, secret = settings.paasoo_key, settings.paasoo_secret
    if key is None or secret is None:
        return None
    client = PaasooClient(
        settings.paasoo_url,
        key.get_secret_value(),
        secret.get_secret_value(),
        settings.paasoo_from,
    )
    schedule = schedule_of(settings)
    return Sending(database, client, metrics, draining, schedule, since=time.time_ns() // 1000)


def schedule_of(settings: Settings) -> Schedule | None:
    """The times of the questions for missing reports, if there is an address to ask."""
    if settings.paasoo_report_url is None:
        return None
    hours = settings.report_timeout_hours
    after_us = round(settings.pull_after_minutes * 60_000_000)
    return Schedule(after_us, hours * HOUR if hours else None)


def asking_of(
    settings: Settings, sender: Sending | None, writer: Writer, take_time: Callable[[], int]
) -> Asking | None:
    """The part that asks for missing reports, over the sender's connections."""
    url = settings.paasoo_report_url
    if sender is None or sender.schedule is None or url is None:
        return None
    return Asking(
        sender.database,
        sender.client,
        url,
        writer,
        sender.metrics,
        sender.schedule,
        settings.pulls_a_second,
        take_time,
    )


def balance_of(settings: Settings, sender: Sending | None, metrics: Metrics) -> Balance | None:
    """The part that asks for the balance, over the sender's connections."""
    if settings.paasoo_balance_url is None or sender is None:
        return None
    return Balance(sender.client, settings.paasoo_balance_url, metrics)


@asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[None]:
    """Start the threads and tasks; at the end, stop them and close the database and the spool."""
    if not parts.database.is_embedded:
        await run_in_threadpool(parts.recovery.start)
    parts.periodic.start()
    if parts.balance is not None:
        parts.balance.start()
    worker = PullWorker(parts.asking, parts.outage) if parts.asking is not None else None
    if worker is not None:
        worker.start()
    parts.pushing.start()
    yield
    if worker is not None:
        await worker.stop()
    if await stop(parts):
        if parts.spool is not None:
            parts.spool.close()
        parts.database.close()


async def stop(parts: Parts) -> bool:
    """Stop everything. False if a thread still uses the database, to be closed with the process."""
    pushing = asyncio.create_task(parts.pushing.stop())
    if parts.balance is not None:
        await parts.balance.stop()
    parts.periodic.stop()
    parts.recovery.stop()
    await parts.writer.stop(timeout_s=0.5)
    if parts.sending is not None:
        await parts.sending.client.close()
    loop = asyncio.get_running_loop()
    for thread in (parts.periodic, parts.recovery):
        if await loop.run_in_executor(None, thread.is_running, 1.0):
            return False
    return await pushing
