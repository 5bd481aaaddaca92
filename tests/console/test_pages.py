"""The pages: search, a message and its story, the list, the overview, live."""

import csv
import io
from collections.abc import Iterator

import pytest

from tests.console.browsing import HTML, Person, a_person, text_of
from tests.service import ADMIN_KEY, Service, a_report

ID = "052804b7368321"
HOSTILE = ("<script>alert(1)</script>", "مرحبا بالعالم \u202e", "😀" * 255, "'\"><img src=x>")


@pytest.fixture
def person(service: Service) -> Iterator[Person]:
    with a_person(service) as reader:
        yield reader


@pytest.mark.parametrize(
    "q",
    [
        "6588888888",
        "+65 8888 8888",
        "0065-8888-8888",
        "(+65) 8888.8888",
        "+65\u00a08888\u20118888",
        "tel:+6588888888",
        "+65 (0)8888 8888",
        "\u202a+6588888888\u202c",
        "＋６５８８８８８８８８",  # noqa: RUF001 - as an East Asian keyboard writes it
        "  052804b7368321 ",
    ],
)
def test_search_opens_the_only_message_that_is_meant(
    service: Service, person: Person, q: str
) -> None:
    service.call_back(a_report())

    assert person.open("/search", params={"q": q}).url.path == f"/messages/{ID}"


def test_search_lists_several_messages_to_a_number(service: Service, person: Person) -> None:
    service.call_back(a_report())
    service.call_back(a_report(messageid="another"))

    page = person.open("/search", params={"q": "+65 8888 8888"})

    assert (page.url.path, page.url.params["to"]) == ("/deliveries", "6588888888")
    assert ID in page.text
    assert "another" in page.text


def test_search_finds_a_reference_and_tells_kinds_apart(service: Service, person: Person) -> None:
    service.register("sent-1", to=["6588888888"], reference="order 12 & <b>")
    assert person.open("/search", params={"q": "order 12 & <b>"}).url.path == "/messages/sent-1"
    service.register("sent-2", to=["6577777777"], reference="sent-1")

    page = person.open("/search", params={"q": "sent-1"})

    assert page.url.path == "/search"
    assert "The message with this id" in page.text
    assert "Messages with this reference" in page.text


@pytest.mark.parametrize("q", ["unknown", "12", "+65 1234 5678", "\0", "x" * 5000, *HOSTILE])
def test_search_without_a_hit_says_what_to_do(person: Person, q: str) -> None:
    page = person.open("/search", params={"q": q})

    assert page.status_code == 200
    assert "needs its country code" in text_of(page)
    assert "<script>alert" not in page.text
    assert "<img src=x" not in page.text


def test_message_tells_its_story_and_why(service: Service, person: Person) -> None:
    for status, statuscode in (
        (0, "accepted"),
        (0, "delivered"),
        (0, "delivered"),
        (404, "Absent Subscriber Temporary"),
    ):
        service.call_back(a_report(status=status, statuscode=statuscode))

    page = person.open(f"/messages/{ID}")

    words = text_of(page)
    assert "The message has reached the phone." in words
    assert "A late failure doesn't undo a delivery" in words
    assert "contradict each other: they say “Delivered” and “Not delivered”" in words
    assert "1 repeat so far" in words
    assert "the phone was off or out of coverage. Worth trying again." in words
    assert page.text.count(">decides<") == 1
    assert "type=dlr&amp;messageid=052804b7368321" in page.text  # the raw query
    address = f"http://127.0.0.1:{service.port}"
    assert f"{address}/messages/{ID}" in words
    assert f"curl -H 'Authorization: Bearer KEY' {address}/v1/messages/{ID}" in words


def test_message_without_a_report_says_so(service: Service, person: Person) -> None:
    service.register("sent-1", to=["6588888888", "6577777777"], reference="order 12")

    words = text_of(person.open("/messages/sent-1"))

    assert "no report has come so far" in words
    assert "Recipients 2" in words
    assert "order 12" in words


def test_id_with_reserved_characters_has_its_page(service: Service, person: Person) -> None:
    for message_id in ("a/b?c#d%2F&'", "...", "100%"):
        service.call_back(a_report(messageid=message_id))

        page = person.open("/search", params={"q": message_id})

        assert page.status_code == 200
        assert "The only report decides." in page.text


def test_unknown_message_is_404_with_a_hint(person: Person) -> None:
    page = person.open("/messages/unknown")

    assert page.status_code == 404
    assert "Nothing is known of this message" in page.text


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_report_says_is_shown_as_text(
    service: Service, person: Person, text: str
) -> None:
    report = a_report(status=404, statuscode=text, errcode=text, network=text[:64])
    assert service.call_back(report).status_code == 200
    service.register(ID, to=["6588888888"], reference=text[:255])

    for path in (f"/messages/{ID}", "/deliveries", "/live", "/"):
        page = person.open(path)
        assert page.status_code == 200, path
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text


def test_list_filters_by_its_address(service: Service, person: Person) -> None:
    service.call_back(a_report())
    service.call_back(a_report(messageid="failed", status=404, statuscode="Illegal Number"))
    service.call_back(a_report(messageid="elsewhere", to="6577777777", network="52501"))
    service.register("sent", to=["6566666666"], reference="order 12")

    for query, expected in (
        ("to=%2B65+8888-8888", {ID, "failed"}),
        ("state=undelivered", {"failed"}),
        ("reason=illegal_number", {"failed"}),
        ("network=52501", {"elsewhere"}),
        ("errcode=1&state=delivered", {ID, "elsewhere"}),
        ("reference=order+12", {"sent"}),
        ("since=2999-01-01T00:00", set()),
        ("until=2999-01-01T00:00:00Z", {ID, "failed", "elsewhere"}),
        ("state=&to=", {ID, "failed", "elsewhere", "sent"}),
    ):
        page = person.open(f"/deliveries?{query}")
        shown = {name for name in (ID, "failed", "elsewhere", "sent") if f"/{name}#" in page.text}
        assert shown == expected, query


def test_filter_that_cannot_be_read_is_named(person: Person) -> None:
    for query in ("to=abc", "state=nosuch", "reason=x", "since=yesterday", "network=%00"):
        page = person.open(f"/deliveries?{query}")
        assert page.status_code == 422, query
        assert 'class="fault"' in page.text
        assert person.open(f"/deliveries.csv?{query}").status_code == 422


def test_list_goes_on_page_by_page(service: Service, person: Person) -> None:
    for number in range(60):
        service.call_back(a_report(messageid=f"m-{number}"))

    first = person.open("/deliveries?to=6588888888")
    link = first.text.split('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
    second = person.open(link.replace("&amp;", "&"))

    found = [page.text.count('data-name="To"') for page in (first, second)]
    assert found == [50, 10]
    assert "First page" in second.text


def test_export_is_what_is_shown_and_safe_for_a_spreadsheet(
    service: Service, person: Person
) -> None:
    service.call_back(a_report(statuscode="=1+1", status=404))
    service.call_back(a_report(messageid="other", to="6577777777"))

    answer = person.http.get("/deliveries.csv?to=6588888888")

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["messageid"], row["statuscode"]) == (ID, "'=1+1")


def test_overview_counts_and_links_to_what_it_counts(service: Service, person: Person) -> None:
    service.call_back(a_report())
    service.call_back(a_report(messageid="failed", status=404, statuscode="Illegal Number"))
    service.call_back(a_report(messageid="unclear", status=0, statuscode="failed"))
    service.call_back("type=dlr")

    for span in ("24h", "7d", "30d", "nosuch"):
        page = person.open(f"/?span={span}")
        words = text_of(page)
        assert "50.0 %" in words
        assert "The number is not valid (1)" in words
        assert "1 refused callback in the quarantine." in words
        assert "/deliveries?network=52099&amp;since=" in page.text
        assert "<title>" in page.text.partition("<svg")[2]
        assert "The same as a table" in words
    assert "TH" in words


def test_overview_of_an_empty_service_says_what_to_do_next(service: Service) -> None:
    with a_person(service, ADMIN_KEY) as person:
        words = text_of(person.open("/"))

    assert "No report has come yet" in words
    assert "Copy the callback address" in words


def test_quarantine_is_replayed_or_deleted_after_a_question(service: Service) -> None:
    for number in range(3):
        service.call_back(f"type=dlr&x={number}")
    (one, *_) = service.quarantine()
    with a_person(service, ADMIN_KEY) as person:
        page = person.open("/quarantine")
        assert "A required parameter is missing" in page.text

        question = person.submit(
            "/quarantine/question", page, action="delete chosen", id=[one["id"]]
        )
        assert "Delete 1 refused callback?" in text_of(question)
        assert len(service.quarantine()) == 3
        done = person.submit("/quarantine/do", question, action="delete chosen", id=[one["id"]])
        assert "1 callback deleted." in text_of(done)
        assert len(service.quarantine()) == 2

        question = person.submit("/quarantine/question", done, action="replay all")
        assert "Replay 2 refused callbacks?" in text_of(question)
        done = person.submit("/quarantine/do", question, action="replay all")
        assert "0 callbacks are stored now. 2 callbacks are still refused." in text_of(done)

        person.submit("/quarantine/do", done, action="delete all")
        assert service.quarantine() == []
        assert "Nothing was refused" in person.open("/quarantine").text


def test_reader_can_change_nothing(service: Service, person: Person) -> None:
    service.call_back("type=dlr")
    page = person.open("/")

    for path in ("/quarantine/do", "/quarantine/question", "/set-up/test-report"):
        assert person.submit(path, page, action="delete all").status_code == 403
    assert len(service.quarantine()) == 1


def test_test_report_of_the_set_up_is_stored_and_opened(service: Service) -> None:
    with a_person(service, ADMIN_KEY) as person:
        page = person.submit("/set-up/test-report", person.open("/set-up"))

    assert page.url.path.startswith("/messages/test-")
    assert "The message has reached the phone." in page.text


def test_live_rows_come_by_the_stream(service: Service, person: Person) -> None:
    with person.http.stream("GET", "/live/events", headers=HTML) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        next(lines)  # it has begun
        service.call_back(a_report(status=404, statuscode="<script>alert(1)</script>"))
        event = [next(lines) for _ in range(3)]

    assert event[0] == "event: rows"
    assert event[1].startswith("id: ")
    assert f"/messages/{ID}#to-6588888888" in event[2]
    assert "<script" not in event[2]
