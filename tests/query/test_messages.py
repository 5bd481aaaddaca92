"""The lookup of a message and of its history: shapes, order, ids, errors."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from tests.service import ADMIN_KEY, SAMPLE, Service, a_report

ID = SAMPLE["messageid"]
PATHS = [f"/v1/messages/{ID}", f"/v1/messages/{ID}/reports"]
PROBLEM_FIELDS = {"type", "title", "status", "detail", "code"}


def assert_problem(answer: Any, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem.keys() >= PROBLEM_FIELDS
    assert problem["type"]
    assert problem["title"]
    assert problem["detail"]
    assert (problem["status"], problem["code"]) == (status, code)


def assert_is_now(time: str) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", time)
    assert abs(datetime.fromisoformat(time) - datetime.now(UTC)) < timedelta(minutes=2)


def test_message_has_every_field_of_the_guides_sample(service: Service) -> None:
    service.call_back(a_report())

    message = service.message(ID)

    (delivery,) = message.pop("deliveries")
    assert message == {"messageid": ID, "state": "delivered", "final": True}
    assert_is_now(delivery["first_received_at"])
    assert delivery.pop("first_received_at") == delivery.pop("last_received_at")
    assert delivery == {
        "messageid": ID,
        "to": "6588888888",
        "state": "delivered",
        "final": True,
        "reason": None,
        "retryable": False,
        "conflicting": False,
        "status": 0,
        "statuscode": "delivered",
        "errcode": "1",
        "network": "52099",
        "submitted_at": None,
        "reference": None,
        "price": None,
        "parts": None,
    }


def test_report_has_every_field(service: Service) -> None:
    query = "to=%2B6588888888&status=0404&messageid=a%2Db&extra=1&type=dlr&errcode=&statuscode=odd"
    service.call_back(query)

    (report,) = service.reports("a-b")

    assert_is_now(report["received_at"])
    assert report.pop("received_at") == report.pop("last_received_at")
    assert report == {
        "to": "6588888888",
        "times_received": 1,
        "state": "undelivered",
        "reason": "unspecified",
        "status": 404,
        "statuscode": "odd",
        "errcode": None,
        "network": None,
        "source": "callback",
        "query": query,
    }


def test_empty_parameters_are_null(service: Service) -> None:
    service.call_back(a_report(statuscode="", errcode="", network=""))

    delivery = service.delivery()

    assert [delivery[name] for name in ("statuscode", "errcode", "network")] == [None] * 3
    assert delivery["state"] == "delivered"


def test_deliveries_come_ordered_by_to(service: Service) -> None:
    recipients = ["6590000000", "123", "6580000000", "999", "65800000001"]
    for recipient in recipients:
        service.call_back(a_report(to=recipient))

    found = [delivery["to"] for delivery in service.message(ID)["deliveries"]]

    assert found == sorted(recipients)


def test_fifty_recipients_of_one_message_keep_fifty_deliveries(service: Service) -> None:
    recipients = [f"65800000{number:02}" for number in range(50)]
    for recipient in reversed(recipients):
        assert service.call_back(a_report(to=recipient)).status_code == 200

    message = service.message(ID)

    assert [delivery["to"] for delivery in message["deliveries"]] == recipients
    assert (message["state"], message["final"]) == ("delivered", True)
    assert len(service.reports()) == 50


# The reports for each of two recipients, and the message's state.
STATES = [
    ([("0", "delivered"), ("0", "delivered")], "delivered", True),
    ([("0", "delivered"), ("404", "failed")], "mixed", True),
    ([("0", "delivered"), ("0", "accepted")], "mixed", False),
    ([("0", "accepted"), ("0", "accepted")], "accepted", False),
    ([("404", "failed"), ("501", "failed")], "undelivered", True),
    ([("404", "failed"), ("401", "failed")], "mixed", True),
    ([("777", "odd"), ("0", "failed")], "unknown", False),
]


def test_state_of_a_message_is_its_deliveries_if_they_agree(service: Service) -> None:
    for number, (statuses, _, _) in enumerate(STATES):
        for recipient, (status, statuscode) in enumerate(statuses, start=6580000000):
            query = a_report(
                messageid=f"m-{number}", to=recipient, status=status, statuscode=statuscode
            )
            service.call_back(query)

    messages = [service.message(f"m-{number}") for number in range(len(STATES))]

    found = [(message["state"], message["final"]) for message in messages]
    assert found == [(state, final) for _, state, final in STATES]


def test_message_shows_its_own_deliveries_alone(service: Service) -> None:
    for message_id in (ID, ID + "0", ID.upper() + "a", ID + "A"):
        service.call_back(a_report(messageid=message_id))

    assert [one["messageid"] for one in service.message(ID)["deliveries"]] == [ID]
    assert [one["messageid"] for one in service.message(ID + "A")["deliveries"]] == [ID + "A"]


def test_repeated_report_is_one_line_of_the_history_that_counts(service: Service) -> None:
    for _ in range(3):
        service.call_back(a_report(status=404, statuscode="failed"))

    (report,) = service.reports()

    assert report["times_received"] == 3
    assert report["received_at"] < report["last_received_at"]
    delivery = service.delivery()
    assert delivery["first_received_at"] == report["received_at"]
    assert delivery["last_received_at"] == report["last_received_at"]
    assert not delivery["conflicting"]


def test_history_keeps_every_report_oldest_first(service: Service) -> None:
    queries = [
        a_report(statuscode="accepted"),
        a_report(to="6577777777", status=404, statuscode="Absent Subscriber Temporary"),
        a_report(),
        a_report(status=404, statuscode="failed", errcode=3),
    ]
    for query in [*queries, queries[0]]:
        service.call_back(query)

    reports = service.reports()

    assert [report["query"] for report in reports] == queries
    assert [report["state"] for report in reports] == [
        *("accepted", "undelivered", "delivered", "undelivered")
    ]
    assert [report["reason"] for report in reports] == [
        *(None, "absent_temporary", None, "absent_permanent")
    ]
    assert [report["times_received"] for report in reports] == [2, 1, 1, 1]
    times = [report["received_at"] for report in reports]
    assert times == sorted(times)


def test_late_failure_does_not_undo_a_delivery(service: Service) -> None:
    service.call_back(a_report())
    service.call_back(a_report(status=404, statuscode="Unroutable", network="52501"))

    delivery = service.delivery()

    assert (delivery["state"], delivery["reason"]) == ("delivered", None)
    assert (delivery["status"], delivery["network"]) == (0, "52099")
    assert delivery["conflicting"]
    assert delivery["last_received_at"] > delivery["first_received_at"]


RESERVED_IDS = [
    *("a/b", "a/reports", "/", "//", "..", ".", "a?b=c", "a#b", "100%", "%2F", "%252F", "a+b"),
    *("a%20b", "a&b=c", "a;b", 'q"\\', "<b>", "~", "{messageid}", "[1]", "|^`", "@:", "'or'1'='1"),
    "x" * 128,
]


def test_ids_with_reserved_characters_are_found_percent_encoded(service: Service) -> None:
    for message_id in RESERVED_IDS:
        assert service.call_back(a_report(messageid=message_id)).status_code == 200, message_id

    for message_id in RESERVED_IDS:
        # A client library would take `..` for a step up: as a number, it is only an id.
        escaped = quote(message_id, safe="").replace(".", "%2E")
        message = service.get(f"/v1/messages/{escaped}")
        assert message.status_code == 200, message_id
        assert message.json()["messageid"] == message_id
        history = service.get(f"/v1/messages/{escaped}/reports")
        assert history.status_code == 200, message_id
        assert len(history.json()["reports"]) == 1, message_id


def test_plus_in_a_path_is_a_plus(service: Service) -> None:
    service.call_back(a_report(messageid="a+b"))

    assert service.get("/v1/messages/a+b").json()["messageid"] == "a+b"


def test_unknown_message_is_404(service: Service) -> None:
    for path in PATHS:
        assert_problem(service.get(path), 404, "message_not_found")


def test_what_can_be_no_id_is_422(service: Service) -> None:
    for message_id in ("%20", "a%20b", "%C3%A9", "%00", "%ff", "%0A", "%7F", "x" * 129):
        for path in (f"/v1/messages/{message_id}", f"/v1/messages/{message_id}/reports"):
            answer = service.get(path)

            assert_problem(answer, 422, "invalid_request")
            assert "messageid" in answer.json()["detail"]


def test_unknown_parameter_is_422_and_named(service: Service) -> None:
    service.call_back(a_report())

    for path in PATHS:
        for query in ("wiat=1", "wiat", "wiat=", "wiat=%00", "x=1&wiat=2"):
            answer = service.get(f"{path}?{query}")

            assert_problem(answer, 422, "invalid_request")
            assert "wiat" in answer.json()["detail"]


def test_other_methods_are_405_and_told_which_is_allowed(service: Service) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}

    for method in ("POST", "PATCH", "DELETE"):
        answer = service.http.request(method, f"/v1/messages/{ID}/reports", headers=headers)

        assert_problem(answer, 405, "method_not_allowed")
        assert "GET" in answer.headers["allow"]


def test_unknown_paths_are_404(service: Service) -> None:
    for path in ("/v1", "/v1/", "/v1/messages/", f"/v1/messages/{ID}/", "/v2/x"):
        assert_problem(service.get(path), 404, "not_found")
