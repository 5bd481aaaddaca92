"""PaaSoo's answer about a message, read in whatever honest form it has."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pulling.answer import NotUnderstoodError, read_answer, read_report
from app.pulling.spooled import understand_spooled
from app.reports import DeliveryReport
from tests.pulling.answers import ID, NUMBER, SAMPLE

NOW = 1_700_000_000_000_000


def of(answer: str) -> list[Any]:
    return [
        (told.recipient, told.report and told.report.state, told.price, told.parts)
        for told in read_answer(answer, ID, NOW)
    ]


def test_the_sample_of_public_code_is_a_report_with_its_costs() -> None:
    (told,) = read_answer(json.dumps([SAMPLE]), ID, NOW)

    assert told.recipient == NUMBER
    assert told.report is not None
    assert told.report[:2] == (ID, NUMBER)
    assert (told.report.state, told.report.status) == ("delivered", 0)
    assert (told.report.source, told.report.received_at) == ("pull", NOW)
    assert json.loads(told.report.query) == SAMPLE
    assert (told.price, told.parts) == ("0.05", 1)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"drStatus": 404, "drStatuscode": "Absent Subscriber Temporary"}, "undelivered"),
        ({"drStatus": "0", "drStatuscode": None}, "delivered"),
        ({"drStatus": 0, "drStatuscode": "accepted"}, "accepted"),
        ({"drStatus": 400, "drStatuscode": "rejected", "drErrcode": 5}, "rejected"),
        ({"to": int(NUMBER)}, "delivered"),
        ({"to": f"+{NUMBER}"}, "delivered"),
        ({"messageid": None}, "delivered"),
        ({"network": "46000", "drErrcode": "1"}, "delivered"),
        ({"drStatus": None}, None),
        ({"drStatus": ""}, None),
        ({"drStatus": True}, None),
        ({"drStatus": 0.0}, None),
        ({"drStatus": -1}, None),
        ({"drStatus": 123456}, None),
        ({"drStatus": "delivered"}, None),
    ],
)
def test_a_report_is_there_if_it_has_an_integer_status(
    changes: dict[str, Any], state: str | None
) -> None:
    assert of(json.dumps([{**SAMPLE, **changes}])) == [(NUMBER, state, "0.05", 1)]


def test_without_a_status_there_is_no_report_yet() -> None:
    assert of("[]") == []
    assert of("{}") == []
    assert of("[{}]") == []
    assert of('{"status": "0", "messageid": "another"}') == []
    assert of(json.dumps([{"to": NUMBER, "status": 0}])) == [(NUMBER, None, None, None)]


def test_an_odd_element_costs_the_others_nothing() -> None:
    sample = json.dumps(SAMPLE)
    digits = "9" * 5000

    assert of(f"[null, {sample}, 1, []]") == of(f"[{sample}]")
    assert of(f'[{sample}, {{"to": "{NUMBER}", "odd": {digits}}}]')[:1] == of(f"[{sample}]")


def test_what_is_told_of_another_message_is_ignored() -> None:
    assert of(json.dumps([{**SAMPLE, "messageid": "another"}, SAMPLE])) == of(json.dumps([SAMPLE]))


@pytest.mark.parametrize(
    ("price", "shown"),
    [
        ("0.050", "0.050"),
        ('"0.05"', "0.05"),
        ("1", "1"),
        ("5e-2", "5e-2"),
        ("null", None),
        ("{}", None),
        ('"\\u0000"', None),
        (f'"{"9" * 33}"', None),
    ],
)
def test_a_price_is_shown_as_it_came(price: str, shown: str | None) -> None:
    assert of(f'[{{"to": "{NUMBER}", "price": {price}}}]') == [(NUMBER, None, shown, None)]


@pytest.mark.parametrize(
    "answer",
    ["", "null", "1", "<html>", "[{} {}]", "[{}", "[{}]]", "[" * 9999],
)
def test_anything_else_is_not_understood(answer: str) -> None:
    with pytest.raises(NotUnderstoodError):
        read_answer(answer, ID, NOW)


texts = st.none() | st.integers() | st.text() | st.booleans() | st.floats()
items = st.fixed_dictionaries(
    {"to": st.just(NUMBER) | texts, "drStatus": st.integers(0, 1000) | texts},
    optional={
        "messageid": st.just(ID) | texts,
        "drStatuscode": texts,
        "drErrcode": texts,
        "network": texts,
        "price": texts,
        "counts": texts,
        "anything": texts,
    },
)


@given(st.lists(items), st.booleans())
def test_a_report_is_kept_in_a_form_that_parses_like_the_answer(
    answer: list[dict[str, Any]], is_ascii: bool
) -> None:
    for told in read_answer(json.dumps(answer, ensure_ascii=is_ascii, allow_nan=True), ID, NOW):
        report = told.report
        if report is not None:
            assert report.query.isascii()
            assert report.query.isprintable()
            assert read_report(report.query, ID, NOW) == report
            assert understand_spooled(report.spooled.encode(), NOW) == report


def test_a_callback_in_the_spool_is_read_as_before() -> None:
    query = f"type=dlr&messageid={ID}&to={NUMBER}&status=0"

    report = understand_spooled(query.encode(), NOW)

    assert isinstance(report, DeliveryReport)
    assert (report.source, report.spooled) == ("callback", query)
