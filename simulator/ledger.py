"""The ledger of a run: a file of JSON lines, one for each event.

`run` comes first; then `sent` for each recipient, `report` for each call to the callback address
once it is answered or has failed, `asked` for each question about a message, and `refused` for each
send that the send API turned down. In a ledger of pushes, `receiving` comes first; then `pushed`
for each push once it is answered or can't be, and `followed` for a redirect that was followed. Each
line is flushed, so a killed run leaves a usable file that lacks only the calls under way.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any


class LedgerError(Exception):
    """The file can't be read or written, or is no ledger."""


class Ledger:
    """A ledger to write to. It holds whole phone numbers, so only its owner may read it."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "at": now(), **fields}, ensure_ascii=False)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise LedgerError(f"can't be written: {error.strerror}") from None


@contextmanager
def new_ledger(path: Path) -> Iterator[Ledger]:
    """Start an empty ledger; it replaces an old one."""
    try:
        path.unlink(missing_ok=True)
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise LedgerError(f"can't be written: {error.strerror}") from None
    with os.fdopen(opened, "w", encoding="utf-8") as file:
        yield Ledger(file)


def events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a ledger in order, without a last line that was cut off."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith("\n"):
                    return
                event = json.loads(line)
                if not isinstance(event, dict) or "event" not in event:
                    raise LedgerError(f"line {number} is not an event")
                yield event
    except OSError as error:
        raise LedgerError(f"can't be read: {error.strerror}") from None
    except ValueError:
        raise LedgerError(f"line {number} is not JSON") from None


def now() -> str:
    """The time in UTC, as in RFC 3339."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
