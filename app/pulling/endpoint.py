"""`POST /v1/messages/{messageid}/pull`: ask PaaSoo about a message now."""

import asyncio
from typing import Any, Final

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.database import refuse_while_away
from app.api.parameters import MessageId
from app.api.parts import parts_of
from app.api.responses import json_response, problems
from app.api.routes import api_router
from app.errors import MessageNotFoundError, documented
from app.pulling.answer import NotUnderstoodError
from app.pulling.asking import Asking, NotAnsweredError, NotStoredError, RefusedError, ask
from app.pulling.problems import PullBusyError, PullNotConfiguredError
from app.query.schemas import Message, message_of
from app.sending.problems import ProviderBadAnswerError, ProviderUnreachableError
from app.settings import Role
from app.store import pulls

router = api_router("/v1/messages", tag="sending", role=Role.SEND)

NOT_UNDERSTOOD: Final = "PaaSoo's answer is not understood; ask again"
NOT_ANSWERED: Final = "PaaSoo didn't answer the question; ask again"
PULL_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    **problems(404),
    502: documented("PaaSoo's answer is not understood. `code`: `provider_bad_answer`."),
    503: documented(
        "PaaSoo was not asked, or didn't answer; try again. `code`: `pull_not_configured`, "
        "`pull_busy`, `provider_unreachable`, `database_unavailable`."
    ),
}


@router.post("/{messageid}/pull", response_model=Message, responses=PULL_PROBLEMS)
async def pull_message(messageid: MessageId, request: Request) -> Response:
    """Ask PaaSoo for the reports of this message now, and answer with the message.

    What PaaSoo tells becomes reports with the source `pull`. The schedule stays as it is.
    """
    parts = parts_of(request)
    if parts.asking is None:
        raise PullNotConfiguredError
    refuse_while_away(request)
    await _wait_for_a_turn(parts.asking)
    try:
        await ask(parts.asking, messageid)
    except (NotUnderstoodError, RefusedError):
        raise ProviderBadAnswerError(NOT_UNDERSTOOD) from None
    except (ProviderUnreachableError, NotAnsweredError):
        raise ProviderUnreachableError(NOT_ANSWERED) from None
    except NotStoredError:
        raise PullBusyError from None
    deliveries = await parts.lookups.deliveries_of(messageid)
    if not deliveries:
        raise MessageNotFoundError(messageid)
    return json_response(message_of(deliveries))


async def _wait_for_a_turn(asking: Asking) -> None:
    """Keep to the rate that all replicas share."""

    def take() -> list[float]:
        with asking.database.statement() as connection:
            return pulls.take_turns(connection, asking.a_second, 1)

    for wait_s in await run_in_threadpool(take):
        await asyncio.sleep(wait_s)
        return
    raise PullBusyError
