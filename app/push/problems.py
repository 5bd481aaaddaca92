"""Errors of the webhooks' endpoints."""

from app.errors import ApiError
from app.store.webhooks import MAX_WEBHOOKS


class WebhookNotFoundError(ApiError):
    """There is no webhook with this id."""

    status = 404
    code = "webhook_not_found"

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"there is no webhook with the id {webhook_id}", id=webhook_id)


class TooManyWebhooksError(ApiError):
    """There are as many webhooks as there may be."""

    status = 409
    code = "too_many_webhooks"
    detail = f"there are {MAX_WEBHOOKS} webhooks, and no more may be: delete one first"
