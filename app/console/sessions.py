"""Sessions: signed cookies, and a token in each form against cross-site requests."""

import hmac
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_hex
from typing import Final

from itsdangerous import BadData, URLSafeTimedSerializer

from app.console.attempts import Attempts
from app.settings import ApiKey
from app.store import console as store
from app.store.engine import Database

LIFE_S: Final = 12 * 3600
# A replica whose clock is behind by less knows a session that another has just begun.
CLOCKS_DIFFER_S: Final = 60
SECRET_BYTES: Final = 32
SIGNER: Final = {"digest_method": sha256}


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in. `key` is the one of the settings now."""

    id: str
    key: ApiKey


class Sessions:
    """Begins, finds and ends sessions. All replicas share the secret, so each knows them all."""

    def __init__(self, database: Database, keys: Sequence[ApiKey]) -> None:
        self._database = database
        self._keys = keys
        self._secret: bytes | None = None
        self._lock = threading.Lock()
        self.attempts = Attempts()

    def begin(self, key: ApiKey) -> str:
        """A new session's cookie."""
        cookie: str | bytes = self._signer("session").dumps([token_hex(16), self._mark_of(key)])
        return str(cookie)

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie, unless it is over, or its key is no longer in the settings."""
        content = self._content(cookie, "session")
        if content is None:
            return None
        session_id, mark = content
        for key in self._keys:
            if hmac.compare_digest(self._mark_of(key), mark) and not self._has_ended(session_id):
                return Session(session_id, key)
        return None

    def end(self, session: Session) -> None:
        now = time.time_ns() // 1000
        with self._database.transaction() as connection:
            store.end(connection, session.id, now + (LIFE_S + CLOCKS_DIFFER_S) * 1_000_000, now)

    def form_token(self, owner: str) -> str:
        """A token for a form of this session or visitor.

        It differs each time, or compression would give it away letter by letter (BREACH).
        """
        token: str | bytes = self._signer("form").dumps([token_hex(8), self._digest(owner)])
        return str(token)

    def is_form_token(self, owner: str, token: str) -> bool:
        content = self._content(token, "form")
        return content is not None and hmac.compare_digest(content[1], self._digest(owner))

    def sealed_notice(self, page: str, words: str) -> str:
        """Words to show on a page that a redirect leads to: a link of others can't show any."""
        sealed: str | bytes = self._signer("notice").dumps([page, words])
        return str(sealed)

    def notice(self, page: str, sealed: str) -> str | None:
        """The words, if they were sealed for this page."""
        content = self._content(sealed, "notice")
        return content[1] if content is not None and content[0] == page else None

    def _content(self, text: str, purpose: str) -> tuple[str, str] | None:
        try:
            (first, second), made_at = self._signer(purpose).loads(text, return_timestamp=True)
        except (BadData, TypeError, ValueError):
            return None
        age_s = time.time() - made_at.timestamp()
        return (str(first), str(second)) if -CLOCKS_DIFFER_S <= age_s <= LIFE_S else None

    def _has_ended(self, session_id: str) -> bool:
        with self._database.read.connect() as connection:
            return store.has_ended(connection, session_id)

    def _mark_of(self, key: ApiKey) -> str:
        """Tells a key of the settings by a hash that helps nobody to guess the key."""
        return self._digest(f"{key.name}\0{key.digest.hex()}")

    def _digest(self, text: str) -> str:
        return hmac.digest(self._key_of("mark"), text.encode(), "sha256").hex()[:32]

    def _signer(self, purpose: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._key_of("sign"), salt=purpose, signer_kwargs=SIGNER)

    def _key_of(self, purpose: str) -> bytes:
        if self._secret is None:
            with self._lock:
                self._secret = self._kept_secret()
        return hmac.digest(self._secret, purpose.encode(), "sha256")

    def _kept_secret(self) -> bytes:
        """The secret in the database, made now if no replica has made it yet."""
        found = self._read_secret()
        if found is None:
            with self._database.statement() as connection:
                store.keep_secret(connection, token_hex(SECRET_BYTES))
            found = self._read_secret()
        assert found is not None
        return bytes.fromhex(found)

    def _read_secret(self) -> str | None:
        with self._database.read.connect() as connection:
            return store.secret(connection)
