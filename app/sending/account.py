"""The account at PaaSoo, as far as PaaSoo tells of it."""

from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, Field

from app.api.parts import parts_of
from app.api.routes import api_router
from app.api.times import TimeOutput
from app.errors import documented
from app.sending.problems import AccountNotConfiguredError
from app.settings import Role

router = api_router("/v1/account", tag="sending", role=Role.READ)


class Account(BaseModel):
    """The balance, as PaaSoo told it last."""

    balance: Annotated[str, Field(description="As it came.", examples=["0.972"])]
    currency: Annotated[str, Field(examples=["EUR"])]
    asked_at: Annotated[
        TimeOutput, Field(description="The time of the question that was answered so.")
    ]


@router.get(
    "",
    responses={
        404: documented("`DLR_PAASOO_BALANCE_URL` is not set. `code`: `account_not_configured`."),
        503: documented(
            "PaaSoo has not told the balance since the service began; see `Retry-After`. "
            "`code`: `account_not_known_yet`."
        ),
    },
)
async def show_account(request: Request) -> Account:
    """The account's balance, asked every 5 minutes; while PaaSoo is away, the last one known."""
    balance = parts_of(request).balance
    if balance is None:
        raise AccountNotConfiguredError
    known = await balance.latest()
    return Account(balance=known.balance, currency=known.currency, asked_at=known.asked_at)
