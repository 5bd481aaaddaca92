"""Uses of callback tokens and API keys: only counted, so that no request waits for it.

Once a minute, periodic work writes down those whose count has grown.
"""

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from app.settings import ApiKey, Settings

# Enough to tell tokens, or keys of one name, apart. Too few to test a guessed token by.
DIGITS: Final = 4


class Uses:
    """The uses of this process since they were last written down."""

    def __init__(self, settings: Settings, of_tokens: Mapping[str | int, int]) -> None:
        """`of_tokens` counts the callbacks by the token's position, from 1."""
        self._tokens = [
            (mark_of_token(token), position)
            for position, token in enumerate(settings.callback_tokens, start=1)
        ]
        self._of_tokens = of_tokens
        self._of_keys = dict.fromkeys(settings.api_keys, 0)
        self._written: dict[str, int] = {}

    def note(self, key: ApiKey) -> None:
        """Count a use of a key of the settings."""
        self._of_keys[key] += 1

    def unwritten(self) -> Mapping[str, int]:
        """The counts that have grown since they were written down, by mark."""
        counts: Counter[str] = Counter()
        for mark, position in self._tokens:
            counts[mark] += self._of_tokens.get(position, 0)
        for key, times in self._of_keys.items():
            counts[mark_of_key(key)] += times
        before = self._written
        return {mark: times for mark, times in counts.items() if times > before.get(mark, 0)}

    def note_written(self, counts: Mapping[str, int]) -> None:
        self._written.update(counts)


def mark_of_token(token: str) -> str:
    return f"token {sha256(token.encode()).hexdigest()[:DIGITS]}"


def mark_of_key(key: ApiKey) -> str:
    return f"key {key.digest.hex()[:DIGITS]} {key.name}"
