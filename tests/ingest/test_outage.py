"""An outage: all threads agree on it, and the log reports each part of it once."""

import logging

import pytest

from app.ingest.outage import MAX_REASONS, Outage


def of_a_server() -> Outage:
    outage = Outage(is_embedded=False, has_spool=True)
    outage.end()
    return outage


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object]]:
    return [(record.getMessage(), record.__dict__.get("error")) for record in caplog.records]


def test_a_server_is_away_until_it_is_found(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage(is_embedded=False, has_spool=True)

    at_first = outage.is_on
    outage.end()

    assert (at_first, outage.is_on) == (True, False)
    assert said(caplog) == []


def test_each_reason_is_logged_once_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    outage = of_a_server()

    for _ in range(2):
        for why in ("cut", "cut", "read-only", "cut"):
            outage.begin(why)
            assert outage.is_on
        outage.end()
        outage.end()

    assert said(caplog) == 2 * [
        ("the database takes no reports", "cut"),
        ("the database takes no reports", "read-only"),
        ("the database takes reports again", None),
    ]


def test_reasons_that_differ_each_time_are_logged_once_a_kind_and_not_without_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = of_a_server()

    for left in range(1000):
        outage.begin(f"warned: {left} are left", "warning 01000")
        outage.begin(f"no connection from port {left}")

    assert len([why for _, why in said(caplog) if "are left" in str(why)]) == 1
    assert len(said(caplog)) == MAX_REASONS


def test_a_spool_that_fails_now_and_then_is_logged_once_an_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = of_a_server()
    outage.begin("cut")

    is_failing = []
    for _ in range(2):
        outage.spool_fails("full", rows=9)
        is_failing.append(outage.spool_is_failing)
        outage.spool_works()
        is_failing.append(outage.spool_is_failing)
    outage.spool_fails("full", rows=9)
    outage.end()
    is_failing.append(outage.spool_is_failing)

    assert is_failing == [True, False, True, False, False]
    assert said(caplog).count(("the spool takes no more", "full")) == 1


def test_a_spool_that_fails_as_the_outage_ends_is_not_needed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = of_a_server()
    outage.begin("cut")
    outage.end()

    outage.spool_fails("full", rows=9)  # by a batch that began before the end

    assert not outage.spool_is_failing
    assert ("the spool takes no more", "full") not in said(caplog)


def test_the_embedded_database_is_tried_again_by_each_batch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        outage = Outage(is_embedded=True, has_spool=False)
        outage.begin("full")
        assert not outage.is_on
        outage.end()

    assert [message for message, _ in said(caplog)] == [
        "the database takes no reports",
        "the database takes reports again",
    ]
    assert caplog.records[0].__dict__["they_are"] == "refused"
