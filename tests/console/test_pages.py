"""The pages: search, a message and its story, the list, the overview, live."""

import csv
import io
import re
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from html import escape, unescape

import httpx2
import pytest
from sqlalchemy import URL

from app.callback.parse import parse
from app.ops import upkeep
from app.reports import DeliveryReport
from app.store import submissions, write
from app.store.submissions import UNKNOWN_ID, Submission
from tests.console.browsing import ADMIN_FORMS, HTML, Person, a_person, text_of
from tests.plans import plans_of, reads_a_whole_table, statements_on
from tests.process import until
from tests.pulling.test_pull import SOON, asking
from tests.sending.provider import answered, running_provider
from tests.service import (
    ADMIN_KEY,
    READ_KEY,
    SEND_KEY,
    TOKEN,
    Service,
    a_report,
    running_service,
)

ID = "052804b7368321"
HOSTILE = ("<script>alert(1)</script>", "مرحبا بالعالم \u202e", "😀" * 255, "'\"><img src=x>")


def link_of(page: httpx2.Response, beginning: str) -> str:
    """The page's link that begins so."""
    found = re.search(rf'href="({re.escape(escape(beginning))}[^"]*)"', page.text)
    assert found, page.text
    return unescape(found[1])


def shown_of(page: httpx2.Response, *ids: str) -> set[str]:
    """Those of the messages that the page links to."""
    return {it for it in ids if f"/{it}#" in page.text}


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
    service.call_back(a_report(messageid="sent-1", to="6566666666"))

    page = person.open("/search", params={"q": "sent-1"})

    assert page.url.path == "/search"
    for recipient in ("6588888888", "6577777777", "6566666666"):
        assert f"+{recipient}" in page.text
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


def test_message_with_very_many_reports_shows_some(service: Service, person: Person) -> None:
    """All of them would take a time that callbacks then lack."""
    started = 1_700_000_000_000_000
    of_many = [parse(a_report(to=6588880000 + it).encode(), started) for it in range(150)]
    of_one = [
        parse(a_report(to="6500", status=404, errcode=it).encode(), started + 1 + it)
        for it in range(80)
    ]
    deciding = parse(a_report(to="6500").encode(), started)
    with service.app.parts.database.transaction() as connection:
        write.record(connection, [*of_many, deciding, *of_one])

    page = person.open(f"/messages/{ID}")

    assert "Recipients 151" in text_of(page)
    assert "The first 100 recipients are shown" in text_of(page)
    assert page.text.count("<article") == 100
    assert "30 earlier reports not shown" in text_of(page)
    assert page.text.count("PaaSoo called") == 99 + 51
    assert page.text.count('<span class="flag good">decides</span>') == 100


def test_message_without_a_report_says_so(service: Service, person: Person) -> None:
    service.register("sent-1", to=["6588888888", "6577777777"], reference="order 12")

    words = text_of(person.open("/messages/sent-1"))

    assert "no report has come so far" in words
    assert "Recipients 2" in words
    assert "order 12" in words


def test_message_tells_of_questions_and_of_the_end_of_waiting(database_url: URL) -> None:
    with running_provider() as provider:
        with (
            running_service(database_url, **asking(provider)) as service,
            a_person(service) as person,
        ):
            service.register("sent-1", to=["6588888888"])
            words = text_of(person.open("/messages/sent-1"))
            assert "Next question to PaaSoo PaaSoo has not been asked" in words
            assert "The end of waiting" in words
            assert "PaaSoo asked" not in words
        provider.will_answer(*[answered([])] * 9)
        with (
            running_service(database_url, **asking(provider, SOON)) as service,
            a_person(service) as person,
        ):
            service.register("sent-2", to=["6577777777"])
            until(lambda: "PaaSoo was asked" in text_of(person.open("/messages/sent-2")))
            page = person.open("/messages/sent-2")
            assert "PaaSoo asked" in page.text
            service.call_back(a_report(messageid="sent-2", to="6577777777"))
            # All is told, so nothing is to come.
            assert "to-come" not in person.open("/messages/sent-2").text


def test_id_with_reserved_characters_has_its_page(service: Service, person: Person) -> None:
    for message_id in ("a/b?c#d%2F&'", "...", "100%", ".", ".."):
        service.call_back(a_report(messageid=message_id))

        page = person.open("/search", params={"q": message_id})

        assert page.status_code == 200
        assert "The message has reached the phone." in page.text


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


def test_message_opens_by_a_parameter_too(service: Service, person: Person) -> None:
    service.call_back(a_report(messageid=".."))

    page = person.open("/messages?id=..")

    words = text_of(page)
    assert "The message has reached the phone." in words
    assert "/messages?id=.." in words  # the link for a ticket
    assert """--json '{"messageids": [".."]}'""" in words  # no path that curl would shorten
    assert "/messages?id=..#to-6588888888" in person.open("/deliveries").text
    for query in ("", "?id=", "?id=a%20b", "?id=%00", f"?id={'x' * 129}"):
        assert person.open(f"/messages{query}").status_code == 404, query


def test_list_of_contradictory_deliveries_is_the_one_that_the_overview_counts(
    service: Service, person: Person
) -> None:
    for message_id in (ID, "other"):
        service.call_back(a_report(messageid=message_id))
        service.call_back(a_report(messageid=message_id, status=404, statuscode="Unroutable"))
    service.call_back(a_report(messageid="agreed"))

    overview = person.open("/")

    assert "2 messages with reports that contradict each other." in text_of(overview)
    listed = person.open(link_of(overview, "/deliveries?conflicting=true&"))
    assert shown_of(listed, ID, "other", "agreed") == {ID, "other"}
    assert 'value="true" selected' in listed.text
    for query, expected in (("state=delivered", {ID, "other"}), ("state=undelivered", set())):
        listed = person.open(f"/deliveries?conflicting=true&{query}")
        assert shown_of(listed, ID, "other", "agreed") == expected
    assert person.open("/deliveries?conflicting=no").status_code == 422


def test_list_of_a_country_is_the_one_that_the_overview_counts(
    service: Service, person: Person
) -> None:
    networks = {"sg-1": "52501", "sg-2": "52503", "th": "52099", "odd": "525-x", "none": None}
    for message_id, network in networks.items():
        service.call_back(a_report(messageid=message_id, network=network))

    overview = person.open("/")

    listed = person.open(link_of(overview, "/deliveries?country=SG&"))
    assert shown_of(listed, *networks) == {"sg-1", "sg-2"}
    for query, expected in (
        ("country=sg", {"sg-1", "sg-2"}),
        ("country=SG&network=52501", {"sg-1"}),
        ("country=SG&network=52099", set()),
        ("country=SG&to=6588888888", {"sg-1", "sg-2"}),
        ("country=TH&until=2999-01-01T00:00", {"th"}),
        ("country=US", set()),
    ):
        assert shown_of(person.open(f"/deliveries?{query}"), *networks) == expected, query
    rows = csv.DictReader(io.StringIO(person.open("/deliveries.csv?country=SG").text))
    assert [row["messageid"] for row in rows] == ["sg-2", "sg-1"]
    assert person.open("/deliveries?country=XX").status_code == 422


def test_list_of_a_country_goes_on_page_by_page(service: Service, person: Person) -> None:
    for number in range(60):
        network = ("52501", "52503", "52099")[number % 3]
        service.call_back(a_report(messageid=f"m-{number:02}", network=network))
        service.call_back(a_report(messageid=f"n-{number:02}", network=network))

    first = person.open("/deliveries?country=SG")
    second = person.open(link_of(first, "/deliveries?country=SG&cursor="))

    ids = [re.findall(r"/messages/([mn]-\d\d)#", page.text) for page in (first, second)]
    assert [len(it) for it in ids] == [50, 30]
    expected = [f"{name}-{number:02}" for number in range(60) if number % 3 < 2 for name in "mn"]
    assert ids[0] + ids[1] == expected[::-1]


def test_every_list_goes_by_an_index(service: Service, person: Person) -> None:
    service.call_back(a_report())
    service.call_back(a_report(status=404, statuscode="Unroutable"))
    a_time = "2000-01-31T08:00:00Z"
    for path, index in (
        ("/deliveries?conflicting=true", "conflicting"),
        (f"/deliveries?conflicting=true&since={a_time}", "conflicting"),
        ("/deliveries?conflicting=true&state=delivered&network=52099", "conflicting"),
        ("/deliveries?conflicting=true&country=TH", "conflicting"),
        # Either has few rows, as the database knows better than we do.
        ("/deliveries?conflicting=true&to=6588888888", "(recipient|conflicting)"),
        ("/deliveries?country=TH", "mcc_mnc"),
        (f"/deliveries?country=TH&since={a_time}&until=2999-01-31T08:00:00Z", "mcc_mnc"),
        ("/", "conflicting"),
    ):
        with statements_on(service.app.parts.database.read) as statements:
            assert person.open(path).status_code == 200, path
        plans = [plan for _, plan in plans_of(service.database_url, statements)]
        assert re.search(f"ix_deliveries_{index}", plans[-1]), path + plans[-1]
        for plan in plans:
            assert not reads_a_whole_table(plan), path + plan


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
        assert "/deliveries?network=52099&amp;reason=illegal_number&amp;since=" in page.text
        assert "<title>" in page.text.partition("<svg")[2]
        assert "The same as a table" in words
    assert "Thailand" in words


def test_overview_tells_where_it_got_worse(service: Service, person: Person) -> None:
    now = time.time_ns() // 1000
    a_day_ago = now - 25 * 3600 * 1_000_000
    reports = []
    for number in range(40):
        is_late, network = number % 2, ("52099", "52501")[number % 4 < 2]
        for at, status in ((a_day_ago, 0), (now, 404 if network == "52501" and is_late else 0)):
            given = {"network": network, "status": status, "statuscode": None}
            query = a_report(messageid=f"m-{at}-{number}", **given)
            report = parse(query.encode(), at + number)
            assert isinstance(report, DeliveryReport)
            reports.append(report)
    with service.app.parts.database.write.begin() as connection:
        write.record(connection, reports)

    # Thirty networks with worse rates, of a message each.
    for number in range(30):
        service.call_back(
            a_report(messageid=f"few-{number}", network=f"460{number:02}", status=404)
        )

    page = person.open("/")
    words = text_of(page)

    assert "1 country with a worse delivery rate than in the 24 hours before." in words
    assert "1 network with a worse delivery rate than in the 24 hours before." in words
    assert "/?span=24h#network" in page.text
    assert "Singapore 50.0 % 50.0 % 100.0 % worse now 20" in words
    assert "52501 Singapore 50.0 % 50.0 % 100.0 % worse now 20" in words
    assert "52099 Thailand 100.0 % 100.0 % 100.0 % 20" in words


def test_overview_counts_what_had_no_report_in_time_for_a_month(
    service: Service, person: Person
) -> None:
    now = time.time_ns() // 1000
    for days in (4, 29, 32):
        sent_at = now - days * 24 * 3600 * 1_000_000
        submission = Submission(f"sent-{days}", ["6588888888"], None, sent_at)
        with service.app.parts.database.write.begin() as connection:
            submissions.register(connection, submission, sent_at)
    with service.app.parts.database.write.begin() as connection:
        submissions.expire(connection, cutoff=now, now=now, limit=10)

    for span in ("24h", "7d", "30d"):
        words = text_of(person.open(f"/?span={span}"))
        assert "2 messages sent in the last 30 days without a report in time." in words


def test_message_that_was_perhaps_sent_says_so(service: Service, person: Person) -> None:
    message_id = f"{UNKNOWN_ID}1"
    now = time.time_ns() // 1000
    with service.app.parts.database.write.begin() as connection:
        submissions.register(connection, Submission(message_id, ["6588888888"], None, now), now)

    words = text_of(person.open("/messages", params={"id": message_id}))

    assert "It may have been sent or not: PaaSoo's answer did not come" in words
    assert "The message was sent" not in words
    assert words.count("Perhaps sent") == 2


def test_search_that_finds_nothing_tells_of_the_quarantine(
    service: Service, person: Person
) -> None:
    assert "quarantine" not in text_of(person.open("/search?q=f2b32e6bfdaf38")).lower()
    service.call_back("type=dlr&messageid=f2b32e6bfdaf38&to=8683063392")

    assert "1 callback is in the quarantine, which a key of role admin can see" in text_of(
        person.open("/search?q=f2b32e6bfdaf38")
    )
    with a_person(service, ADMIN_KEY) as boss:
        assert "message f2b32e6bfdaf38, number 8683063392" in text_of(boss.open("/quarantine"))


def test_times_and_days_are_of_the_readers_zone(service: Service, person: Person) -> None:
    service.register("sent-1", to=["6588888888"], submitted_at="2020-06-01T20:00:00Z")
    service.call_back(a_report())
    for zone, shown in (
        ("Asia/Singapore", "2 Jun 2020, 04:00:00 UTC+8"),
        ("Asia/Kolkata", "2 Jun 2020, 01:30:00 UTC+5:30"),
        ("America/New_York", "1 Jun 2020, 16:00:00 UTC-4"),
    ):
        person.http.cookies.set("dlr_zone", zone, domain="127.0.0.1")
        page = person.open("/messages/sent-1")
        assert f'title="1 Jun 2020, 20:00:00 UTC">{shown}</time>' in page.text
        assert f"Times are in {zone};" in text_of(page)
        assert "By the time of the last report, UTC" in text_of(person.open("/"))
    for zone in ("../../etc/passwd", "/etc/localtime", "America", "No/Where", "x" * 100, "UTC", ""):
        person.http.cookies.set("dlr_zone", zone, domain="127.0.0.1")
        assert ">1 Jun 2020, 20:00:00 UTC</time>" in person.open("/messages/sent-1").text, zone


def test_filters_by_time_are_of_the_readers_zone_and_of_utc_in_the_address(
    service: Service, person: Person
) -> None:
    person.http.cookies.set("dlr_zone", "Asia/Singapore", domain="127.0.0.1")

    page = person.open("/deliveries?since=2020-06-02T04:00&until=2999-01-01T00:00:00.5Z&to=")

    assert dict(page.url.params) == {
        "since": "2020-06-01T20:00:00.000000Z",
        "until": "2999-01-01T00:00:00.5Z",
    }
    assert 'value="2020-06-02T04:00"' in page.text
    assert 'value="2999-01-01T08:00"' in page.text
    for odd in ("0001-01-01T00:00", "9999-12-31T23:59", "2020-06-02T04:00+08:00", "20200602"):
        assert person.open("/deliveries", params={"since": odd}).status_code in {200, 422}, odd


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

        question = person.submit("/quarantine/question", done, action="delete all")
        person.submit("/quarantine/do", question, action="delete all", until=until_of(question))
        assert service.quarantine() == []
        assert "Nothing was refused" in person.open("/quarantine").text


def until_of(question: httpx2.Response) -> str:
    """The time up to which the question has counted, which its form sends along."""
    found = re.search(r'name="until" value="(\d+)"', question.text)
    assert found, question.text
    return found[1]


def test_refused_callback_that_came_after_the_question_is_not_deleted(service: Service) -> None:
    service.call_back("type=dlr&x=1")
    with a_person(service, ADMIN_KEY) as person:
        page = person.open("/quarantine")
        question = person.submit("/quarantine/question", page, action="delete all")
        assert "Delete 1 refused callback?" in text_of(question)
        service.call_back("type=dlr&x=2")

        done = person.submit(
            "/quarantine/do", question, action="delete all", until=until_of(question)
        )

    assert "1 callback deleted." in text_of(done)
    assert [it["query"] for it in service.quarantine()] == ["type=dlr&x=2"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/webhooks/%00", 404),
        ("/quarantine?done=delete&counts=" + "9" * 5000, 200),
    ],
    ids=lambda it: str(it)[:30],
)
def test_nonsense_in_an_address_is_no_fault_of_ours(
    service: Service, path: str, status: int
) -> None:
    with a_person(service, ADMIN_KEY) as person:
        assert person.open(path).status_code == status


def test_nonsense_in_a_form_chooses_nothing(service: Service) -> None:
    service.call_back("type=dlr")
    with a_person(service, ADMIN_KEY) as person:
        page = person.open("/quarantine")
        for action in ("delete chosen", "replay chosen"):
            for path in ("/quarantine/question", "/quarantine/do"):
                answer = person.submit(path, page, action=action, id=["\0"])
                assert answer.status_code == 200, path
        person.submit("/quarantine/do", page, action="delete all", until="x")
    assert len(service.quarantine()) == 1


@pytest.mark.parametrize("key", [READ_KEY, SEND_KEY])
def test_lower_roles_can_change_nothing(service: Service, key: str) -> None:
    service.call_back("type=dlr")
    with a_person(service, key) as person:
        page = person.open("/")
        for path in ADMIN_FORMS:
            answer = person.submit(path, page, action="delete all")
            assert answer.status_code == 403, path
            assert "This page is not for your key" in answer.text, path
            assert TOKEN not in answer.text
    assert len(service.quarantine()) == 1
    assert shown_of(service.get("/v1/deliveries"), "test-") == set()


def test_set_up_tells_the_last_use_of_tokens_and_keys(own_service: Service) -> None:
    with a_person(own_service, ADMIN_KEY) as person:
        assert "No use is known." in text_of(person.open("/set-up"))
        own_service.call_back(a_report())
        own_service.get(f"/v1/messages/{ID}", key=READ_KEY)

        words = text_of(person.open("/set-up"))

        assert "It was last used less than a minute ago." in words
        assert f"reader read {digits_of(READ_KEY)}… less than a minute ago" in words
        assert f"shop send {digits_of(SEND_KEY)}… No use is known" in words
        assert f"boss admin {digits_of(ADMIN_KEY)}… less than a minute ago" in words
        write_uses_down(own_service)
        assert own_service.app.parts.uses.unwritten() == {}

    # Another process on the same database knows it, too.
    with running_service(own_service.database_url) as other, a_person(other, ADMIN_KEY) as person:
        words = text_of(person.open("/set-up"))
        assert re.search(r"It was last used \d+ seconds? ago, ", words)
        assert re.search(r"reader read \w{8}… \d+ seconds? ago, ", words)
        assert f"shop send {digits_of(SEND_KEY)}… No use is known" in words


def write_uses_down(service: Service) -> None:
    """Do now what periodic work does once a minute."""
    it = service.app.parts
    jobs = upkeep.jobs(it.settings, it.database, it.metrics, it.outage, it.uses)
    (job,) = [job for job in jobs if job.name == "last uses"]
    assert job.every_s == 60
    job.run(threading.Event())


def digits_of(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:8]


def test_set_up_tells_each_of_several_tokens_apart(database_url: URL) -> None:
    settings = {"callback_tokens": f"old-{TOKEN},{TOKEN}"}
    with running_service(database_url, **settings) as service:
        service.call_back(a_report())
        with a_person(service, ADMIN_KEY) as person:
            words = text_of(person.open("/set-up"))

    first, second = words.partition("Address 2")[::2]
    assert "Address 1, in the order of DLR_CALLBACK_TOKENS" in first
    assert "No use is known." in first
    assert "It was last used less than a minute ago." in second


def test_open_stream_is_a_use_of_its_key(own_service: Service) -> None:
    uses = own_service.app.parts.uses
    headers = {"Authorization": f"Bearer {SEND_KEY}"}
    with own_service.http.stream("GET", "/v1/changes/stream", headers=headers) as stream:
        lines = stream.iter_lines()
        next(lines)
        uses.note_written(uses.unwritten())
        own_service.call_back(a_report())
        next(line for line in lines if line.startswith("data:"))

        assert [mark for mark in uses.unwritten() if mark.endswith(" shop")]


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


@pytest.mark.parametrize("service", ["sqlite"], indirect=True)
def test_open_stream_ends_soon_after_signing_out(service: Service, person: Person) -> None:
    with person.http.stream("GET", "/live/events", headers=HTML) as stream:
        lines = stream.iter_lines()
        next(lines)
        began = time.monotonic()
        person.submit("/sign-out", person.open("/"))

        told = [line for line in lines if not line.startswith(":")]

    assert time.monotonic() - began < 15
    assert told[0] == "event: signed-out"
    assert not [line for line in told if "tr>" in line]
