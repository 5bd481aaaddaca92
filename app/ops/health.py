"""Liveness, readiness and metrics."""

import logging

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from app.api.access import bearer, require
from app.api.parts import Parts, parts_of
from app.api.routes import NO_KEY, Route
from app.errors import PROBLEM_TYPE, documented, problem
from app.settings import Role
from app.store import faults, schema

log = logging.getLogger(__name__)

router = APIRouter(route_class=Route, tags=["operations"])


@router.get("/livez", response_model=dict[str, str], openapi_extra=NO_KEY)
async def show_liveness() -> JSONResponse:
    """200 while the process runs. Never touches the database."""
    return JSONResponse({"status": "alive"})


@router.get(
    "/readyz",
    response_model=dict[str, object],
    responses={503: documented("`detail` and `checks` say which check failed.")},
    openapi_extra=NO_KEY,
)
def show_readiness(request: Request) -> JSONResponse:
    """200, or 503 with the checks that failed."""
    parts = parts_of(request)
    checks = {
        "draining": "the process is about to end" if parts.draining.is_set() else "ok",
        "queue": "full" if parts.writer.is_full else "ok",
        **_check_database(parts),
        "spool": _check_spool(parts),
    }
    failed = [name for name, found in checks.items() if found != "ok"]
    if not failed:
        return JSONResponse({"status": "ready", "checks": checks})
    detail = "; ".join(f"{name}: {checks[name]}" for name in failed)
    return JSONResponse(
        problem(503, "not_ready", detail, checks=checks), 503, media_type=PROBLEM_TYPE
    )


def _check_spool(parts: Parts) -> str:
    if damaged := sorted(file.name for file in parts.recovery.damaged):
        return f"{', '.join(damaged)} is damaged: paasoo-dlr spool recover"
    try:
        if parts.spool is not None:
            parts.spool.require_in_place()
    except SQLAlchemyError as error:
        return faults.words(error)
    return "takes no more" if parts.outage.spool_is_failing else "ok"


def _check_database(parts: Parts) -> dict[str, str]:
    if parts.outage.has_begun:
        return {"database": "takes no reports", "schema": "not checked"}
    try:
        parts.database.require_in_place()
        with parts.database.read.connect() as connection:
            wrong = schema.mismatch(connection)
    except SQLAlchemyError:
        return {"database": "can't be reached", "schema": "not checked"}
    return {"database": "ok", "schema": wrong or "ok"}


async def _require_key_unless_public(request: Request) -> None:
    if not parts_of(request).settings.metrics_public:
        await require(request, Role.READ)


@router.get(
    "/metrics",
    dependencies=[Security(bearer), Depends(_require_key_unless_public)],
    response_class=PlainTextResponse,
    responses={401: documented("No API key, or a wrong one.")},
)
def show_metrics(request: Request) -> Response:
    """Prometheus text."""
    parts = parts_of(request)
    parts.metrics.queued.set(parts.writer.queued)
    parts.metrics.waiting.set(parts.watch.waiting)
    parts.metrics.streams.set(parts.watch.streams)
    if parts.spool is not None:
        parts.metrics.spool_waiting.set(len(parts.spool))
        parts.metrics.spool_bytes.set(parts.spool.bytes_in_use)
    parts.metrics.spool_damaged.set(len(parts.recovery.damaged))
    parts.metrics.last_report_at.set(parts.door.last_report_at / 1_000_000)
    rows = parts.row_counts.latest()
    parts.metrics.quarantine_rows.set(rows.quarantine)
    parts.metrics.pulls_waiting.set(rows.pulls_due)
    parts.metrics.webhooks.states = rows.webhooks
    parts.metrics.feed_held_s.set(rows.feed_held_s)
    parts.metrics.standbys.values = rows.standbys
    parts.metrics.database_up.set(parts.outage.database_answers)
    return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)
