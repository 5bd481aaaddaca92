"""Turn exceptions into answers, the same for the router and for the shortcuts beside it."""

import logging

from sqlalchemy.exc import SQLAlchemyError

from app import errors
from app.exchange import Answer, problem, refusal
from app.store import faults

log = logging.getLogger(__name__)


def answer_to(error: Exception) -> Answer:
    """The problem document for an exception. An unexpected one is logged, its text never shown."""
    if isinstance(error, SQLAlchemyError):
        log.error("a request failed in the database", extra={"error": faults.description(error)})
        error = errors.DatabaseUnavailableError()
    if isinstance(error, errors.ApiError):
        return refusal(error)
    log.error("a request failed", exc_info=error)
    return problem(errors.INTERNAL_ERROR)
