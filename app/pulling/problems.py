"""Reasons why PaaSoo didn't tell about a message."""

from collections.abc import Mapping
from typing import ClassVar

from app.errors import ApiError


class PullNotConfiguredError(ApiError):
    """The service has no address to ask, or no account."""

    status = 503
    code = "pull_not_configured"
    detail = "DLR_PAASOO_REPORT_URL is not set, so PaaSoo isn't asked for reports"


class PullBusyError(ApiError):
    """All questions of the next second are taken, or the reports can't be kept now."""

    status = 503
    code = "pull_busy"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}
    detail = "too many questions, or reports, wait already; ask again"
