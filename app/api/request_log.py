"""One log line a request, of what is no secret: neither path nor query as sent."""

import logging
import time
from typing import Final

log = logging.getLogger(__name__)

# Asked every few seconds by machines: their lines would hide the others.
PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})


def log_request(  # noqa: PLR0913 - by name alone
    *,
    method: str,
    route: str | None,
    status: int,
    began: float,
    key_name: str | None,
    peer: str | None,
    request_id: bytes,
) -> None:
    """Log a request that was answered. `route` is a pattern, `began` of `time.perf_counter`."""
    log.log(
        logging.DEBUG if route in PROBES else logging.INFO,
        "request",
        extra={
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round((time.perf_counter() - began) * 1000, 1),
            "key": key_name,
            "peer": peer,
            "request_id": request_id.decode("ascii"),
        },
    )
