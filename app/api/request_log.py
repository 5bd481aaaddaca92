"""One log line for each request, without its path and query, which may hold secrets."""

import logging
import time
from typing import Final

log = logging.getLogger(__name__)

# Machines ask these every few seconds: their lines would hide the others.
PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})


def log_request(  # noqa: PLR0913 - all by name
    *,
    method: str,
    route: str | None,
    status: int,
    began: float,
    key_name: str | None,
    peer: str | None,
    request_id: bytes,
) -> None:
    """Log an answered request. `route` is the path's pattern; `began` is from `perf_counter`."""
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
