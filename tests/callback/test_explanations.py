"""The words that explain a report never refuse it, whatever bytes they are made of."""

import unicodedata
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.callback.parse import parse, printable
from app.reports import DeliveryReport
from tests.service import Service, a_report

LIMITS = {"statuscode": 255, "errcode": 255, "network": 64}

# A raw value, and the value that is shown.
ODD_VALUES = {
    "%00": "%00",
    "a%00b": "a%00b",
    "%ff%fe": "%ff%fe",
    "%80": "%80",
    "%ed%a0%80": "%ed%a0%80",
    "caf%E9": "caf%E9",
    "100%": "100%",
    "5%2": "5%2",
    "%1b%5B31mred": "%1b%5B31mred",
    "two%0D%0Alines": "two%0D%0Alines",
    "%C2%85next%C2%85line": "%C2%85next%C2%85line",
    "%0D%0A52099+": "52099",
    "+%00+%ff%20": "%00+%ff",
    "+": None,
    "%20%09%0A": None,
    "%BF%D5%BA%C5": "空号",
    "%f0%9f%98%80": "😀",
    "'%22%5c%7b%7d": "'\"\\{}",
    "null": "null",
    "%E7%A9%BA" * 300: "空" * 300,
    "%ff" * 300: "%ff" * 100,
    "x" * 7000: "x" * 300,
}

some_bytes = st.one_of(
    st.binary(max_size=400),
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(max_size=300).map(lambda text: text.encode("gb18030", "ignore")),
    st.text("空号 \t\r\n\0+", max_size=300).map(lambda text: text.encode("gb18030")),
)
raw_values = st.one_of(
    some_bytes.map(lambda value: value.replace(b"&", b"")),
    some_bytes.map(lambda value: quote_from_bytes(value).encode()),
    st.text("%0aAfF+ x\0", max_size=300).map(str.encode),
)


def values_of(report: DeliveryReport) -> dict[str, str | None]:
    return {
        "statuscode": report.statuscode,
        "errcode": report.errcode,
        "network": report.mcc_mnc,
    }


def with_explanations(raw: dict[str, bytes]) -> bytes:
    required = a_report(statuscode=None, errcode=None, network=None, status=404).encode()
    return required + b"".join(b"&%b=%b" % (name.encode(), value) for name, value in raw.items())


@given(st.fixed_dictionaries(dict.fromkeys(LIMITS, raw_values)))
def test_any_bytes_become_text_that_every_database_takes(raw: dict[str, bytes]) -> None:
    report = parse(with_explanations(raw), 1)

    assert (report.recipient, report.status) == ("6588888888", 404)
    for name, value in values_of(report).items():
        if value is None:
            continue
        assert 0 < len(value) <= LIMITS[name]
        assert value == value.strip()
        assert not any(unicodedata.category(character) == "Cc" for character in value)
        assert value.encode().decode() == value  # no lone surrogate


@given(st.fixed_dictionaries(dict.fromkeys(LIMITS, raw_values)))
def test_the_kept_query_means_the_same_when_it_is_parsed_again(raw: dict[str, bytes]) -> None:
    query = with_explanations(raw)

    kept = parse(query, 1).query

    assert kept == printable(query)
    assert parse(kept.encode(), 1) == parse(query, 1)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=64))
def test_text_comes_through_in_either_encoding(text: str) -> None:
    for encoded in (text.encode(), text.encode("gb18030")):
        query = with_explanations({"statuscode": quote_from_bytes(encoded).encode()})
        expected = {text.strip() or None}
        if encoded != text.encode():
            # GB18030 that happens to be UTF-8 as well can't be told from it.
            expected |= {_as_utf8(encoded)}
        assert values_of(parse(query, 1))["statuscode"] in expected


def _as_utf8(data: bytes) -> str | None:
    try:
        return data.decode().strip() or None
    except UnicodeDecodeError:
        return None


def test_a_long_run_of_spaces_takes_no_time() -> None:
    """A match that backtracks would take seconds, and hold up every other callback."""
    spaces = b"%ff" + b"+" * 4000 + b"x" + b"%20" * 1300

    report = parse(with_explanations({"errcode": spaces}), 1)

    assert report.errcode == "%ff" + "+" * 252


@pytest.mark.parametrize("name", LIMITS)
def test_odd_values_are_taken_and_shown(service: Service, name: str) -> None:
    for number, (raw, shown) in enumerate(ODD_VALUES.items()):
        query = f"{a_report(messageid=f'odd-{number}', status=404, **{name: None})}&{name}={raw}"

        answer = service.call_back(query)

        assert (answer.status_code, answer.text) == (200, "OK"), raw
        delivery = service.delivery(f"odd-{number}")
        (report,) = service.reports(f"odd-{number}")
        assert delivery[name] == report[name] == (shown and shown[: LIMITS[name]]), raw
        assert report["query"] == query
    assert service.quarantine() == []


@pytest.mark.parametrize("name", LIMITS)
def test_texts_that_differ_behind_the_limit_are_two_reports(service: Service, name: str) -> None:
    for end in "ab":
        value = "x" * LIMITS[name] + end
        assert service.call_back(a_report(status=404, **{name: value})).status_code == 200

    assert len(service.reports()) == 2


def test_repeats_of_an_odd_report_are_one_report(service: Service) -> None:
    query = f"{a_report(status=404, statuscode=None, network=None)}&statuscode=a%00b&network="
    for spaced in ("52099", "52099%0D%0A", "+52099", "52099"):
        assert service.call_back(query + spaced).status_code == 200

    (report,) = service.reports()

    assert (report["times_received"], report["network"]) == (4, "52099")


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        ("delivered", "failed", "unknown"),
        ("delivered", "accepted", "accepted"),
        ("delivered", "Entregado", "delivered"),
        ("DELIVRD", "delivered", "delivered"),
    ],
)
def test_of_two_words_the_one_that_claims_less_counts_in_any_order(
    service: Service, first: str, second: str, state: str
) -> None:
    for message_id, words in {"one": (first, second), "other": (second, first)}.items():
        query = a_report(messageid=message_id, statuscode=None)
        query += "".join(f"&statuscode={word}" for word in words)
        assert service.call_back(query).status_code == 200

    assert [service.delivery(message_id)["state"] for message_id in ("one", "other")] == [state] * 2


def test_words_of_a_failure_are_found_by_its_filters(service: Service) -> None:
    service.call_back(a_report(status=404, statuscode="EXPIRED", errcode=None))
    service.call_back(f"{a_report(messageid='odd', status=404, errcode=None)}&errcode=%00")

    def found(**filters: str) -> list[Any]:
        answer = service.get("/v1/deliveries", params=filters)
        assert answer.status_code == 200, answer.text
        return [item["messageid"] for item in answer.json()["items"]]

    assert found(reason="validity_expired") == ["052804b7368321"]
    assert found(errcode="%00") == ["odd"]
    assert not service.delivery()["retryable"]


@pytest.mark.parametrize("before", ["%09", "%0A", "%C2%A0", "%20", ""])
def test_white_space_before_a_number_changes_nothing(service: Service, before: str) -> None:
    for number in ("006588888888", "%2B6588888888", "6588888888"):
        assert service.call_back(f"{a_report(to=None)}&to={before}{number}").status_code == 200

    assert service.delivery()["to"] == "6588888888"
    (report,) = service.reports()
    assert report["times_received"] == 3
