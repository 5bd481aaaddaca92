"""The console as a person's browser meets it, without a browser: cookies, forms, links."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from typing import Any

import httpx2

from tests.process import client_of
from tests.service import READ_KEY, Service

# They need a key of role admin.
ADMIN_FORMS = (
    "/quarantine/do",
    "/quarantine/question",
    "/set-up/addresses",
    "/set-up/test-report",
)
HTML = {"Accept": "text/html,application/xhtml+xml"}


@dataclass
class Person:
    """Somebody at a browser, with its cookies."""

    http: httpx2.Client

    def open(self, path: str, **options: Any) -> httpx2.Response:
        """Open a page, following redirects."""
        return self.http.get(path, headers=HTML, follow_redirects=True, **options)

    def submit(self, path: str, page: httpx2.Response, **fields: Any) -> httpx2.Response:
        """Send a form of the page, with the token that it has there."""
        data = {"token": token_of(page), **fields}
        return self.http.post(path, data=data, headers=HTML, follow_redirects=True)

    def sign_in(self, key: str, path: str = "/") -> httpx2.Response:
        return self.submit("/sign-in", self.open("/sign-in"), key=key, next=path)


def token_of(page: httpx2.Response) -> str:
    found = re.search(r'name="token" value="([^"]+)"', page.text)
    assert found, page.text
    return unescape(found[1])


@contextmanager
def a_person(service: Service, key: str | None = READ_KEY) -> Iterator[Person]:
    """A person of one's own, signed in with this key."""
    with client_of(service.port) as http:
        person = Person(http)
        if key is not None:
            answer = person.sign_in(key)
            assert answer.status_code == 200, answer.text
        yield person


def text_of(page: httpx2.Response) -> str:
    """The words of a page."""
    body = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", page.text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())
