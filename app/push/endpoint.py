"""The endpoints of webhooks: add an address, look at it, test it, enable it again, remove it."""

import re
import time
from secrets import token_hex
from typing import Annotated, Any, Final, Literal, Self

from fastapi import Body, Path, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from app.api import cursors
from app.api.access import key_name_of
from app.api.database import ReadEngine, refuse_while_away
from app.api.parts import Parts, parts_of
from app.api.responses import problems
from app.api.routes import api_router
from app.api.times import TimeOutput
from app.errors import documented
from app.push import signing
from app.push.client import Answer, PushClient, tls_context
from app.push.problems import TooManyWebhooksError, WebhookNotFoundError
from app.push.push import signed_push
from app.query.schemas import NOW, Change, delivery_of, read_position
from app.reports import TEST_NUMBER, is_printable_ascii
from app.settings import Role
from app.store import changes, webhooks
from app.store.changes import BEGINNING
from app.store.webhooks import Webhook

router = api_router("/v1/webhooks", tag="webhooks", role=Role.ADMIN)

MAX_URL_LENGTH: Final = 2048
_LABEL: Final = "[A-Za-z0-9_-]{1,63}"
_PORT: Final = (
    "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
)
URL_PATTERN: Final = rf"^https?://{_LABEL}(\.{_LABEL})*(:{_PORT})?([/?][!$-\[\]-~]*)?$"


def _web_address(text: str) -> str:
    """Check the address. Refuse a user in it: a secret belongs into no address."""
    if "@" in text.partition("//")[2].partition("/")[0]:
        raise ValueError("must have no user in it: verify the signature instead")
    if not re.fullmatch(URL_PATTERN, text):
        raise ValueError("must be an http or https address, as in https://example.com/dlr")
    return text


def _no_text_or_truth(value: object) -> object:
    """Refuse what Pydantic would take for an integer, and JSON Schema doesn't."""
    if isinstance(value, bool | str):
        raise ValueError("must be an integer")  # noqa: TRY004 - as Pydantic expects
    return value


class WebhookWanted(BaseModel):
    """An address to push changes to."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[
        str,
        Field(
            max_length=MAX_URL_LENGTH,
            description="Where to: `https`, or `http` where nobody else can read along.",
            examples=["https://example.com/dlr"],
            json_schema_extra={"pattern": URL_PATTERN},
        ),
        AfterValidator(_web_address),
    ]
    events: Literal["all", "final"] = Field(
        default="all", description="`all` changes, or those to a `final` state."
    )
    max_items: Annotated[int, BeforeValidator(_no_text_or_truth)] = Field(
        default=100, ge=1, le=1000, description="Deliveries in one push."
    )
    cursor: str = Field(
        default=NOW,
        description="Where to begin: `next_cursor` of `GET /v1/changes`, or another webhook's "
        "`cursor`; `now`: with the next change.",
    )


class WebhookShown(BaseModel):
    """An address that changes are pushed to."""

    id: str = Field(description="Its id.", examples=["4b1f0c9d2e7a8356"])
    url: str = Field(description="Where to.")
    events: Literal["all", "final"] = Field(description="Which changes.")
    max_items: int = Field(description="Deliveries in one push, at most.")
    created_at: TimeOutput = Field(description="When it was added.")
    cursor: str = Field(description="All changes up to it were taken.")
    last_success_at: TimeOutput | None = Field(description="When a push was taken last.")
    last_error: str | None = Field(description="Why the last push failed, while it fails.")
    failing_since: TimeOutput | None = Field(description="The first failure since a success.")
    disabled: bool = Field(description="Nothing is pushed: it answered 410.")

    @classmethod
    def of(cls, webhook: Webhook, **more: str) -> Self:
        shown = {name: getattr(webhook, name) for name in WebhookShown.model_fields}
        return cls(**{**shown, "cursor": cursors.encode(webhook.cursor), **more})


class WebhookAdded(WebhookShown):
    """A new address, with its secret."""

    secret: str = Field(description="Signs the pushes. It is never shown again.")


class Webhooks(BaseModel):
    """All addresses."""

    items: list[WebhookShown] = Field(description="Oldest first.")


class PushResult(BaseModel):
    """The answer to a push."""

    status: int | None = Field(description="HTTP's; null without an answer.")
    error: str | None = Field(description="Why it failed; null if it was taken.")
    duration_ms: int = Field(description="The time until then, in milliseconds.")


def _possible_id(text: str) -> str:
    """The id. Raises `WebhookNotFoundError` for one that a database may refuse to look for."""
    if not is_printable_ascii(text):
        raise WebhookNotFoundError(text)
    return text


WebhookId = Annotated[str, AfterValidator(_possible_id), Path(description="Its id.")]
NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {
    404: documented(f"There is no such webhook. `code`: `{WebhookNotFoundError.code}`.")
}


@router.get("")
def list_webhooks(engine: ReadEngine) -> Webhooks:
    """All addresses that changes are pushed to, without their secrets."""
    with engine.connect() as connection:
        known = webhooks.all_of_them(connection)
    return Webhooks(items=[WebhookShown.of(webhook) for webhook in known])


@router.post(
    "",
    status_code=201,
    responses={
        **problems(413),
        409: documented(f"There are too many. `code`: `{TooManyWebhooksError.code}`."),
    },
)
def add_webhook(wanted: Annotated[WebhookWanted, Body()], request: Request) -> WebhookAdded:
    """Push changes to an address from now on, signed as Standard Webhooks say."""
    refuse_while_away(request)
    webhook = add(parts_of(request), wanted)
    return WebhookAdded.of(webhook, secret=webhook.secret)


def add(parts: Parts, wanted: WebhookWanted, webhook_id: str | None = None) -> Webhook:
    """Add an address. Raises `InvalidRequestError` for its cursor, `TooManyWebhooksError`."""
    now = time.time_ns() // 1000
    with parts.database.transaction() as connection:
        webhook = Webhook(
            id=webhook_id or token_hex(8),
            url=wanted.url,
            events=wanted.events,
            max_items=wanted.max_items,
            secret=signing.new_secret(),
            created_at=now,
            cursor=changes.end(connection)
            if wanted.cursor == NOW
            else max(BEGINNING, read_position(wanted.cursor)),
            caught_up_at=now,
        )
        if not webhooks.add(connection, webhook):
            raise TooManyWebhooksError
    return webhook


def require(connection: Connection, webhook_id: str) -> Webhook:
    """The webhook of this id. Raises `WebhookNotFoundError`."""
    webhook = webhooks.find(connection, webhook_id)
    if webhook is None:
        raise WebhookNotFoundError(webhook_id)
    return webhook


@router.get("/{id}", responses=NOT_FOUND)
def show_webhook(id: WebhookId, engine: ReadEngine) -> WebhookShown:  # noqa: A002 - the name in the path
    """One address, without its secret."""
    with engine.connect() as connection:
        return WebhookShown.of(require(connection, id))


@router.delete("/{id}", status_code=204, responses=NOT_FOUND)
def delete_webhook(id: WebhookId, request: Request) -> None:  # noqa: A002 - the name in the path
    """Remove an address: nothing more is pushed to it, but what is under way."""
    refuse_while_away(request)
    with parts_of(request).database.transaction() as connection:
        removed = webhooks.remove(connection, id)
    if not removed:
        raise WebhookNotFoundError(id)


@router.post("/{id}/enable", responses=NOT_FOUND)
def enable_webhook(id: WebhookId, request: Request) -> WebhookShown:  # noqa: A002 - the name in the path
    """Go on with an address that was disabled, or that fails: push at once, from where it stood."""
    refuse_while_away(request)
    with parts_of(request).database.transaction() as connection:
        webhooks.enable(connection, id)
        return WebhookShown.of(require(connection, id))


@router.post("/{id}/test", responses=NOT_FOUND)
async def test_webhook(id: WebhookId, request: Request) -> PushResult:  # noqa: A002 - the name in the path
    """Push one made-up delivery now, beside all others, and tell how it was answered."""
    refuse_while_away(request)
    answer = await push_test(parts_of(request), id, key_name_of(request))
    return PushResult(status=answer.status, error=answer.error, duration_ms=answer.duration_ms)


async def push_test(parts: Parts, webhook_id: str, key_name: str) -> Answer:
    """Raises `WebhookNotFoundError`, `TooManyWaitingError`."""

    def find() -> tuple[Webhook, PushClient]:
        with parts.database.read.connect() as connection:
            webhook = require(connection, webhook_id)
        tls_context()  # made here the first time: it takes long
        return webhook, PushClient(webhook.url, parts.settings.webhook_allowed_networks)

    with parts.pushing.tests.one_more(key_name):
        webhook, client = await run_in_threadpool(find)
        now = time.time_ns() // 1000
        push_id = f"test_{token_hex(16)}"
        headers, body = signed_push(webhook.secret, push_id, [_made_up(now)], now)
        try:
            return await client.post(headers, body)
        finally:
            await client.close()


def _made_up(now: int) -> Change:
    told = (0, "delivered", None, None, now, now, now, None, None, None)
    row = (f"test-{token_hex(6)}", TEST_NUMBER, "delivered", None, False, *told)
    return Change(BEGINNING, delivery_of(row))
