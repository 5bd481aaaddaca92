"""The part of the service's API that a check needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

import httpx2

from simulator.options import Check, OptionError

# The API's limit for one lookup and for one page.
MOST_AT_ONCE: Final = 1000


TIMEOUT_S: Final = 60


class ApiUnavailableError(Exception):
    """The API can't be asked now, and may be later."""


class Api:
    """One service, asked with one key."""

    def __init__(self, http: httpx2.Client, address: str) -> None:
        self._http = http
        self._address = address.rstrip("/")

    def messages(self, message_ids: Sequence[str]) -> dict[str, Any]:
        """The messages that the service knows, by id."""
        found = {}
        for start in range(0, len(message_ids), MOST_AT_ONCE):
            asked = message_ids[start : start + MOST_AT_ONCE]
            response = self._ask("POST", "/v1/messages/lookup", json={"messageids": asked})
            if response.status_code in {404, 405}:  # a version that has no such endpoint
                return self._messages_one_by_one(message_ids)
            if response.status_code != 200:
                raise OptionError(f"--api: a lookup is answered {response.status_code}")
            for message in response.json()["messages"]:
                found[message["messageid"]] = message
        return found

    def _messages_one_by_one(self, message_ids: Sequence[str]) -> dict[str, Any]:
        found = {}
        for message_id in message_ids:
            response = self._ask("GET", f"/v1/messages/{quote(message_id, safe='')}")
            if response.status_code == 200:
                found[message_id] = response.json()
            elif response.status_code != 404:
                raise OptionError(f"--api: a message is answered {response.status_code}")
        return found

    def changes(self, cursor: str) -> tuple[list[Any], str]:
        """A page of the change feed, and the cursor behind it. `now` is the cursor of its end."""
        query = f"limit={MOST_AT_ONCE}&cursor={quote(cursor, safe='')}"
        response = self._ask("GET", f"/v1/changes?{query}")
        if response.status_code != 200:
            raise OptionError(f"--api: the changes are answered {response.status_code}")
        page = response.json()
        return page["items"], page["next_cursor"]

    def quarantine(self) -> dict[str, str] | None:
        """The code of each refused query. None if the key is no admin's."""
        codes: dict[str, str] = {}
        cursor = ""
        while True:
            path = f"/v1/quarantine?limit={MOST_AT_ONCE}{cursor}"
            response = self._ask("GET", path)
            if response.status_code == 403:
                return None
            if response.status_code != 200:
                raise OptionError(f"--api: the quarantine is answered {response.status_code}")
            page = response.json()
            codes.update((item["query"], item["code"]) for item in page["items"])
            if not page["next_cursor"]:
                return codes
            cursor = f"&cursor={quote(page['next_cursor'], safe='')}"

    def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, f"{self._address}{path}", **options)
        except httpx2.HTTPError as error:
            raise ApiUnavailableError(f"can't be asked: {error or type(error).__name__}") from None
        if response.status_code == 401:
            raise OptionError("--key: the API answers 401, it doesn't know this key")
        if response.status_code >= 500:
            raise ApiUnavailableError(
                f"{path.partition('?')[0]} is answered {response.status_code}"
            )
        return response


@contextmanager
def opened(asked: Check) -> Iterator[Api]:
    """The API of a check."""
    with httpx2.Client(
        headers={"Authorization": f"Bearer {asked.key}"}, timeout=TIMEOUT_S, trust_env=False
    ) as http:
        yield Api(http, asked.api)
