"""One log line for each request, without its path and query, which may hold secrets."""

import logging
import time
from typing import Final

from app.settings import ApiKey

log = logging.getLogger(__name__)

# Machines ask these every few seconds: their lines would hide the others.
PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})

# Enough to tell apart the keys of one name, and to find a key's `sha256=` in the settings.
DIGEST_DIGITS: Final = 8


def log_request(  # noqa: PLR0913 - all by name
    *,
    method: str,
    route: str | None,
    status: int,
    began: float,
    key: ApiKey | None,
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
            "key": key and key.name,
            "key_digest": key and key.digest.hex()[:DIGEST_DIGITS],
            "peer": peer,
            "request_id": request_id.decode("ascii"),
        },
    )
