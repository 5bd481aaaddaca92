"""The parts of a running service, for endpoints to reach through their request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request

if TYPE_CHECKING:  # packages above this one
    import threading

    from app.api.uses import Uses
    from app.callback.door import Door
    from app.console.sessions import Sessions
    from app.http.dispatch import Shortcut
    from app.ingest.outage import Outage
    from app.ingest.recovery import Recovery
    from app.ingest.writer import Writer
    from app.ops.counting import RowCounts
    from app.ops.periodic import Periodic
    from app.pulling.asking import Asking
    from app.push.worker import PushWorker
    from app.query.lookups import Lookups
    from app.query.waiting import Watch
    from app.sending.balance import Balance
    from app.sending.once import Sending
    from app.settings import Settings
    from app.store.engine import Database
    from app.store.spool import Spool
    from app.telemetry import Metrics


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that lives as long as the service. `create_app` builds it once."""

    settings: Settings
    metrics: Metrics
    database: Database
    spool: Spool | None  # none for the embedded database
    outage: Outage
    writer: Writer
    recovery: Recovery
    periodic: Periodic
    row_counts: RowCounts
    door: Door
    uses: Uses
    lookups: Lookups
    watch: Watch
    sending: Sending | None  # none without an account at PaaSoo
    balance: Balance | None  # none without an address to ask
    asking: Asking | None  # none without an address to ask
    pushing: PushWorker
    sessions: Sessions | None  # none without the console
    shortcuts: tuple[Shortcut, ...]
    draining: threading.Event  # set once the process is about to end


def parts_of(request: Request) -> Parts:
    """The parts of the service that received the request."""
    parts: Parts = request.app.parts
    return parts
