"""From an exception to the answer that it deserves, the same beside the router and in it."""

import logging

from sqlalchemy.exc import SQLAlchemyError

from app import errors
from app.exchange import Answer, problem
from app.store import faults

log = logging.getLogger(__name__)


def answer_to(error: Exception) -> Answer:
    """The problem of an error. An unexpected one is logged, and its text is not shown."""
    if isinstance(error, SQLAlchemyError):
        log.error("a request failed in the database", extra={"error": faults.description(error)})
        error = errors.DatabaseUnavailableError()
    if isinstance(error, errors.ApiError):
        return problem(error.document(), **error.headers)
    log.error("a request failed", exc_info=error)
    return problem(errors.INTERNAL_ERROR)
