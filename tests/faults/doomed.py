"""Runs the program, to be killed at a named point. The arguments are POINT, N, and then its own.

It runs unchanged, except for a SIGKILL when it reaches the point for the Nth time.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from alembic.operations import Operations

from app import cli
from app.ingest.commit import Committer
from app.store import write
from app.store.direct import Direct
from app.store.spool import Spool

# The functions at each point, and if the process dies before the call or after it.
POINTS: dict[str, tuple[tuple[Any, str, bool], ...]] = {
    "before the commit": ((write, "commit", True), (Direct, "take", True)),
    "in the transaction": (
        (write, "record", False),
        (write, "_record_on_sqlite", False),
        (Direct, "take", False),
    ),
    "after the commit, before the answer": (
        (Committer, "commit_reports", False),
        (Committer, "count_committed", True),
    ),
    "between its two statements": ((Direct, "_start_rest", True),),
    "before it is in the spool": ((Spool, "put", True),),
    "in the spool, before the answer": ((Spool, "put", False),),
    "drained, still in the spool": ((Spool, "remove", True),),
    "during the drain": ((Spool, "remove", False),),
    "during a migration": ((Operations, "create_index", True),),
}


def doom(point: str, times: int) -> None:
    """Arm the kill."""
    left = times

    def arm(owner: Any, name: str, dies_before: bool) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def doomed(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            is_last = left == 0
            if is_last and dies_before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, doomed)

    for function in POINTS[point]:
        arm(*function)


def main() -> None:
    doom(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    cli.main()
