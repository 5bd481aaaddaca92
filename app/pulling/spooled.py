"""Read a text out of the spool: a raw query, or the text of a report that PaaSoo was asked for."""

from app.callback.parse import printable, understand
from app.pulling.answer import read_report
from app.reports import DeliveryReport, Refusal


def understand_spooled(text: bytes, received_at: int) -> DeliveryReport | Refusal:
    """Parse a text out of the spool, damaged or not. `received_at` in us since 1970 UTC."""
    if not text.startswith(b" "):  # `DeliveryReport.spooled`
        return understand(text, received_at)
    message_id, _, raw = text[1:].decode("latin-1").partition(" ")
    # Only the disk can have put anything but printable ASCII there.
    report = read_report(raw, message_id, received_at) if text.isascii() else None
    if report is None:
        detail = "an answer to a question, which today's rules don't understand"
        return Refusal(printable(text), "invalid_parameter", detail, received_at)
    return report
