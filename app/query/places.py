"""Limited places for waiting requests and for streams, shared among the API keys."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import TooManyWaitingError


class Places:
    """A limited number of places, of which one key holds at most half: the rest is for others."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """The number of places that are taken, by any key."""
        return self._taken.total()

    @contextmanager
    def one_more(self, key_name: str) -> Iterator[None]:
        """Hold a place for the length of the block. Raises `TooManyWaitingError`."""
        if self.taken >= self._limit:
            raise TooManyWaitingError("the service holds as many as it can")
        if self._taken[key_name] >= self._limit // 2:
            raise TooManyWaitingError("this key holds half of all places, as many as one key may")
        self._taken[key_name] += 1
        try:
            yield
        finally:
            self._taken[key_name] -= 1
