"""Reasons why a message was not sent, or may not have been, and why the balance is not known."""

from collections.abc import Mapping
from typing import ClassVar, Final

from app.errors import ApiError


class NotSentError(ApiError):
    """PaaSoo did not take the message, so it may be sent again."""


class PerhapsSentError(ApiError):
    """PaaSoo may have taken the message, so the service never sends it again."""


class ProviderBadRequestError(NotSentError):
    """PaaSoo's 400, 2, 6 or 7."""

    status = 422
    code = "provider_bad_request"


class ProviderRefusedCredentialsError(NotSentError):
    """PaaSoo's 401 or 4."""

    status = 502
    code = "provider_refused_credentials"


class ProviderRestrictedError(NotSentError):
    """PaaSoo's 403 or 9."""

    status = 502
    code = "provider_restricted"


class ProviderRefusedAddressError(NotSentError):
    """PaaSoo's 404 or 5."""

    status = 502
    code = "provider_refused_address"


class ProviderThrottledError(NotSentError):
    """PaaSoo's 10: too many requests."""

    status = 503
    code = "provider_throttled"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class SentJustBeforeError(ProviderThrottledError):
    """PaaSoo's 8: the same text to the same number within 3 seconds."""

    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "3"}


class ProviderUnreachableError(NotSentError):
    """There was no connection to PaaSoo, or none was free."""

    status = 503
    code = "provider_unreachable"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}
    detail = "PaaSoo can't be reached; nothing was sent, try again"


class ProviderBadAnswerError(PerhapsSentError):
    """PaaSoo answered something that no guide explains."""

    status = 502
    code = "provider_bad_answer"


class ProviderSystemError(PerhapsSentError):
    """PaaSoo's 11, which doesn't say that nothing was sent."""

    status = 502
    code = "provider_system_error"


class OutcomeUnknownError(PerhapsSentError):
    """The request left, and no answer came."""

    status = 504
    code = "outcome_unknown"
    detail = "PaaSoo didn't answer the request; it may have been sent or not"


# Of calls of PaaSoo's that gave no message id.
CALL_CODES: Final = tuple(
    error.code
    for error in (
        ProviderBadRequestError,
        ProviderRefusedCredentialsError,
        ProviderRestrictedError,
        ProviderRefusedAddressError,
        ProviderThrottledError,
        ProviderUnreachableError,
        ProviderSystemError,
        ProviderBadAnswerError,
        OutcomeUnknownError,
    )
)


class OutcomeNotRecordedError(ApiError):
    """The database failed after PaaSoo was called."""

    status = 500
    code = "outcome_not_recorded"
    detail = "PaaSoo was called, but the outcome can't be recorded; don't send it again"


class SendingNotConfiguredError(ApiError):
    """The service has no account at PaaSoo."""

    status = 503
    code = "sending_not_configured"
    detail = "DLR_PAASOO_KEY and DLR_PAASOO_SECRET are not set, so nothing is sent"


class AccountNotConfiguredError(ApiError):
    """The service has no address to ask for the balance."""

    status = 404
    code = "account_not_configured"
    detail = "DLR_PAASOO_BALANCE_URL is not set, so PaaSoo isn't asked for the balance"


class AccountNotKnownYetError(ApiError):
    """PaaSoo has not told the balance since the service began."""

    status = 503
    code = "account_not_known_yet"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "30"}
    detail = "PaaSoo has not told the balance yet; it is asked again"


class IdempotencyKeyReusedError(ApiError):
    """The key was used for another message."""

    status = 409
    code = "idempotency_key_reused"
    detail = "this Idempotency-Key was used with another body"


class SendInProgressError(ApiError):
    """Another request with this key is under way."""

    status = 409
    code = "send_in_progress"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}
    detail = "a request with this Idempotency-Key is under way; ask again"
