"""Webhooks for people: where changes are pushed to, how that goes, and the latest pushes."""

import re
from secrets import token_hex
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError

from app.api.database import refuse_while_away
from app.api.parts import Parts, parts_of
from app.console.access import (
    Administrator,
    CheckedForm,
    Form,
    PageRoute,
    StaleFormError,
    first,
)
from app.console.pages import page, redirect, sessions_of
from app.errors import ApiError
from app.push.endpoint import WebhookId, WebhookWanted, add, push_test, require
from app.push.problems import WebhookNotFoundError
from app.reports import is_digits
from app.store import webhooks
from app.store.webhooks import MAX_WAITING, Webhook

router = APIRouter(route_class=PageRoute, include_in_schema=False)

MAX_DIGITS: Final = 9  # of a number that is read as one
DONE: Final = {
    "enabled": "Pushing goes on.",
    "deleted": "The webhook is deleted. Nothing is pushed there any more.",
}


@router.get("/webhooks")
def list_webhooks(request: Request, _session: Administrator) -> Response:
    """Every address, and a form for a new one."""
    return _list(request, {})


@router.post("/webhooks")
def add_webhook(request: Request, _session: Administrator, form: CheckedForm) -> Response:
    """Add an address, and show its secret this once; or say what is wrong."""
    refuse_while_away(request)
    given = {name: first(form, name).strip() for name in ("url", "events", "max_items")}
    webhook_id = first(form, "id")
    try:
        if not re.fullmatch("[0-9a-f]{16}", webhook_id):
            raise StaleFormError
        wanted = {**given, "max_items": _number_of(given["max_items"])}
        webhook = add(parts_of(request), WebhookWanted.model_validate(wanted), webhook_id)
    except IntegrityError:  # the page was loaded again, which sends the form again
        return redirect(request, f"/webhooks/{webhook_id}")
    except ValidationError as error:
        return _list(request, given, _in_words(error), status=422)
    except ApiError as error:
        return _list(request, given, error.detail, status=error.status)
    return _one(request, webhook, secret=webhook.secret)


@router.get("/webhooks/{webhook_id}")
def show_webhook(webhook_id: WebhookId, request: Request, _session: Administrator) -> Response:
    """One address with its latest pushes."""
    notice = DONE.get(request.query_params.get("done", ""))
    if sealed := request.query_params.get("notice"):
        notice = sessions_of(request).notice(webhook_id, sealed)
    return _one(request, _find(parts_of(request), webhook_id), notice=notice)


@router.post("/webhooks/{webhook_id}/test")
async def push_a_test(
    webhook_id: WebhookId, request: Request, session: Administrator, _form: CheckedForm
) -> Response:
    """Push a made-up delivery, and say how it was answered: on a page that can be loaded again."""
    answer = await push_test(parts_of(request), webhook_id, session.key.name)
    outcome = f"failed: {answer.error}" if answer.error else f"was taken (HTTP {answer.status})"
    words = f"The test push {outcome}, after {answer.duration_ms:,} ms."
    notice = sessions_of(request).sealed_notice(webhook_id, words)
    return redirect(request, f"/webhooks/{webhook_id}", notice=notice)


@router.post("/webhooks/{webhook_id}/enable")
def enable_webhook(
    webhook_id: WebhookId, request: Request, _session: Administrator, _form: CheckedForm
) -> Response:
    """Push again at once, from where it stood."""
    refuse_while_away(request)
    with parts_of(request).database.transaction() as connection:
        if not webhooks.enable(connection, webhook_id):
            raise WebhookNotFoundError(webhook_id)
    return redirect(request, f"/webhooks/{webhook_id}", done="enabled")


@router.post("/webhooks/{webhook_id}/question")
def ask_first(
    webhook_id: WebhookId, request: Request, _session: Administrator, _form: CheckedForm
) -> Response:
    """Ask before an address is deleted."""
    return page(request, "delete_webhook.html", webhook=_find(parts_of(request), webhook_id))


@router.post("/webhooks/{webhook_id}/delete")
def delete_webhook(
    webhook_id: WebhookId, request: Request, _session: Administrator, _form: CheckedForm
) -> Response:
    """Delete an address with its history."""
    refuse_while_away(request)
    with parts_of(request).database.transaction() as connection:
        webhooks.remove(connection, webhook_id)
    return redirect(request, "/webhooks", done="deleted")


def _list(
    request: Request, given: Form | dict[str, str], error: str | None = None, status: int = 200
) -> Response:
    with parts_of(request).database.read.connect() as connection:
        known = webhooks.all_of_them(connection)
        waiting = webhooks.waiting_for(connection, known)
    notice = DONE.get(request.query_params.get("done", ""))
    shown: dict[str, Any] = {"webhooks": known, "waiting": waiting, "most": MAX_WAITING}
    shown |= {"given": given, "error": error, "notice": notice, "new_id": token_hex(8)}
    return page(request, "webhooks.html", status, **shown)


def _one(
    request: Request, webhook: Webhook, *, secret: str | None = None, notice: str | None = None
) -> Response:
    with parts_of(request).database.read.connect() as connection:
        tries = webhooks.tries_of(connection, webhook.id)
        waiting = webhooks.waiting_for(connection, [webhook])[webhook.id]
    shown: dict[str, Any] = {"webhook": webhook, "tries": tries, "waiting": waiting}
    return page(request, "webhook.html", **shown, most=MAX_WAITING, secret=secret, notice=notice)


def _find(parts: Parts, webhook_id: str) -> Webhook:
    with parts.database.read.connect() as connection:
        return require(connection, webhook_id)


def _number_of(text: str) -> int | str:
    """The number, or a text that is none, which is refused as such."""
    return int(text) if is_digits(text) and len(text) <= MAX_DIGITS else text


def _in_words(error: ValidationError) -> str:
    """The first fault of the form."""
    fault = error.errors(include_url=False, include_input=False)[0]
    field = {"url": "The address", "max_items": "The number of deliveries"}
    name = field.get(str(fault["loc"][0]), "The choice of changes")
    return f"{name}: {fault['msg'].removeprefix('Value error, ')}."
