"""The webhooks' pages: an administrator adds, tests, enables and deletes an address."""

import re
from collections.abc import Iterator

import httpx2
import pytest

from tests.console.browsing import Person, a_person, text_of
from tests.process import until
from tests.push.receiver import Hooks, Receiver, answer, running_receiver
from tests.service import ADMIN_KEY, Service, a_report


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def person(service: Service) -> Iterator[Person]:
    with a_person(service, ADMIN_KEY) as administrator:
        yield administrator


def add(person: Person, url: str, **fields: str) -> httpx2.Response:
    page = person.open("/webhooks")
    new_id = re.search(r'name="id" value="([0-9a-f]+)"', page.text)
    assert new_id
    form = {"id": new_id[1], "url": url, "events": "all", "max_items": "100", **fields}
    return person.submit("/webhooks", page, **form)


def test_an_address_is_added_with_its_secret_shown_once(
    service: Service, person: Person, receiver: Receiver
) -> None:
    assert "Nothing is pushed yet" in person.open("/webhooks").text

    added = add(person, receiver.url, events="final", max_items="7")

    found = re.search(r"whsec_[A-Za-z0-9+/=]+", added.text)
    assert found
    service.call_back(a_report())
    receiver.next_push().verify(found[0])
    (webhook,) = Hooks(service).call("GET").json()["items"]
    assert (webhook["events"], webhook["max_items"]) == ("final", 7)
    for path in ("/webhooks", f"/webhooks/{webhook['id']}"):
        page = person.open(path)
        assert receiver.url in page.text
        assert "whsec_" not in page.text


def test_a_form_that_is_sent_twice_adds_one(
    service: Service, person: Person, receiver: Receiver
) -> None:
    page = person.open("/webhooks")
    form = {"id": "0123456789abcdef", "url": receiver.url, "events": "all", "max_items": "1"}

    first, second = (person.submit("/webhooks", page, **form) for _ in range(2))

    assert "whsec_" in first.text
    assert (second.status_code, "whsec_" in second.text) == (200, False)
    assert [it["id"] for it in Hooks(service).call("GET").json()["items"]] == [form["id"]]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url": "example.com"}, "must be an http or https address"),
        ({"url": "https://<b>@example.com/"}, "must have no user in it"),
        ({"url": "https://example.com/", "max_items": "0"}, "The number of deliveries"),
        ({"url": "https://example.com/", "events": "odd"}, "The choice of changes"),
    ],
)
def test_a_wrong_field_is_said_and_what_was_given_stays(
    service: Service, person: Person, fields: dict[str, str], words: str
) -> None:
    page = add(person, **fields)

    assert page.status_code == 422
    assert words in text_of(page)
    assert "<b>" not in page.text
    assert Hooks(service).call("GET").json() == {"items": []}


def test_a_test_push_tells_its_answer(person: Person, receiver: Receiver) -> None:
    page = add(person, receiver.url)
    path = re.search(r"/webhooks/[0-9a-f]+/test", page.text)
    assert path

    assert "The test push was taken (HTTP 204)" in text_of(person.submit(path[0], page))
    receiver.answers.put(answer(500))
    assert "The test push failed: HTTP 500" in text_of(person.submit(path[0], page))


def test_a_page_that_is_loaded_again_sends_no_other_test_push(
    person: Person, receiver: Receiver
) -> None:
    page = add(person, receiver.url)
    path = re.search(r"(/webhooks/[0-9a-f]+)/test", page.text)
    assert path
    told = person.submit(path[0], page)
    receiver.next_push()

    again = person.open(str(told.url))

    assert "The test push was taken (HTTP 204)" in text_of(again)
    assert not receiver.has_push()
    assert "The test push" not in text_of(person.open(f"{told.url}x"))  # nor words of others
    assert "The test push" not in text_of(person.open(path[1]))


def test_a_disabled_address_is_seen_and_enabled(
    service: Service, person: Person, receiver: Receiver
) -> None:
    receiver.answers.put(answer(410))
    webhook = Hooks(service).add(receiver.url)
    service.call_back(a_report())
    until(lambda: Hooks(service).show(webhook["id"])["disabled"])

    assert "1 failing webhook behind with the latest changes." in text_of(person.open("/"))
    assert "Disabled" in text_of(person.open("/webhooks"))
    page = person.open(f"/webhooks/{webhook['id']}")
    assert "HTTP 410: the address is gone" in text_of(page)
    receiver.next_push()
    enabled = person.submit(f"/webhooks/{webhook['id']}/enable", page)
    receiver.next_push()

    assert "Pushing goes on." in text_of(enabled)
    until(lambda: "taken, HTTP 204" in text_of(person.open(f"/webhooks/{webhook['id']}")))
    assert "failed HTTP 410" in text_of(person.open(f"/webhooks/{webhook['id']}"))


def test_the_latest_fifty_pushes_are_shown(
    service: Service, person: Person, receiver: Receiver
) -> None:
    begin = service.get("/v1/changes?cursor=now").json()["next_cursor"]
    for number in range(60):
        service.call_back(a_report(messageid=f"m-{number}"))
    webhook = Hooks(service).add(receiver.url, max_items=1, cursor=begin)
    receiver.take_all(60)
    end = service.get("/v1/changes?cursor=now").json()["next_cursor"]
    until(lambda: Hooks(service).show(webhook["id"])["cursor"] == end)

    page = person.open(f"/webhooks/{webhook['id']}")

    assert page.text.count("taken, HTTP 204") == 50


def test_deleting_asks_first(service: Service, person: Person, receiver: Receiver) -> None:
    webhook = Hooks(service).add(receiver.url)
    page = person.open(f"/webhooks/{webhook['id']}")

    question = person.submit(f"/webhooks/{webhook['id']}/question", page)
    assert "Delete this webhook?" in text_of(question)
    assert len(Hooks(service).call("GET").json()["items"]) == 1
    done = person.submit(f"/webhooks/{webhook['id']}/delete", question)

    assert "The webhook is deleted" in text_of(done)
    assert Hooks(service).call("GET").json() == {"items": []}
