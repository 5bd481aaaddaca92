"""Answers of PaaSoo's in every honest form, and in forms that are not."""

import gzip
import json
import zlib

import pytest
from sqlalchemy import URL

from tests.process import free_port
from tests.sending.provider import Provider, answered, bytes_answered
from tests.service import Service, running_service
from tests.simulator.simulating import account_on, only, send_api

ACCEPTED = b'{"status":"0","messageid":"052804b7368321"}'
REFUSED = '{"status_code":"余额不足","status":"9"}'
GZIP, DEFLATE = ("Content-Encoding: gzip", "Content-Encoding: deflate")


def bare_deflate(content: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(content) + stream.flush()


HONEST = {
    "gzip": (gzip.compress(ACCEPTED), GZIP),
    "x-gzip": (gzip.compress(ACCEPTED), "Content-Encoding: x-gzip"),
    "gzip-unnamed": (gzip.compress(ACCEPTED),),
    "gzip-named-deflate": (gzip.compress(ACCEPTED), DEFLATE),
    "named-gzip-and-is-none": (ACCEPTED, GZIP),
    "deflate": (zlib.compress(ACCEPTED), DEFLATE),
    "bare-deflate": (bare_deflate(ACCEPTED), DEFLATE),
    "named-deflate-and-is-none": (ACCEPTED, DEFLATE),
    "an-encoding-that-is-a-charset": (ACCEPTED, "Content-Encoding: utf-8"),
    "byte-order-mark": (b"\xef\xbb\xbf" + ACCEPTED,),
    "blanks": (b"\r\n\t " + ACCEPTED + b" \r\n\r\n",),
    "blanks-and-mark": (b"\n\xef\xbb\xbf\n" + ACCEPTED + b"\x0c\x0b",),
    "blanks-in-values": (b'{"status":" 0 ","messageid":"052804b7368321\\r\\n"}',),
    "mark-in-gzip": (gzip.compress(b"\xef\xbb\xbf" + ACCEPTED), GZIP),
    "gbk": ('{"status_code":"成功","status":"0","messageid":"052804b7368321"}'.encode("gbk"),),
    "in-no-encoding": (
        b'{"status_code":"\xff\xfe\xe9","status":"0","messageid":"052804b7368321"}',
    ),
    "html-type": (ACCEPTED, "Content-Type: text/html; charset=gb2312"),
    "not-a-number-elsewhere": (ACCEPTED[:-1] + b',"credit":NaN,"count":' + b"9" * 5000 + b"}",),
    "up-to-the-limit": (ACCEPTED + b" " * (65536 - len(ACCEPTED)),),
}


@pytest.mark.parametrize("form", HONEST)
def test_an_accepted_message_is_read_in_every_honest_form(
    sending: Service, kept_provider: Provider, form: str
) -> None:
    content, *headers = HONEST[form]
    assert isinstance(content, bytes)
    kept_provider.will_answer(bytes_answered(content, *map(str, headers)))

    sent = sending.send()

    assert sent.status_code == 201, sent.text
    assert sent.json()["messageid"] == "052804b7368321"


@pytest.mark.parametrize(
    ("number", "message_id"),
    [
        ("52804736", "52804736"),
        ("1", "1"),
        ("9007199254740993", "9007199254740993"),  # no double has it
        ("9223372036854775807", "9223372036854775807"),
    ],
)
def test_a_message_id_that_is_a_number_is_kept_to_the_digit(
    sending: Service, kept_provider: Provider, number: str, message_id: str
) -> None:
    kept_provider.will_answer(bytes_answered(f'{{"status":0,"messageid":{number}}}'.encode()))

    sent = sending.send()

    assert sent.status_code == 201, sent.text
    assert sending.message(message_id)["messageid"] == message_id


DISHONEST = {
    "true": b'{"status":"0","messageid":true}',
    "float": b'{"status":"0","messageid":52804736.0}',
    "exponent": b'{"status":"0","messageid":5.2e7}',
    "negative": b'{"status":"0","messageid":-5}',
    "zero": b'{"status":"0","messageid":0}',
    "huge": b'{"status":"0","messageid":' + b"9" * 20 + b"}",
    "huger": b'{"status":"0","messageid":' + b"9" * 5000 + b"}",
    "nan": b'{"status":"0","messageid":NaN}',
    "infinite": b'{"status":"0","messageid":Infinity}',
    "list": b'{"status":"0","messageid":["x"]}',
    "only-blanks": b'{"status":"0","messageid":" "}',
    "status-true": b'{"status":true,"messageid":"x"}',
    "status-float": b'{"status":0.0,"messageid":"x"}',
    "status-minus-zero": b'{"status":-0,"messageid":"x"}',
    "status-nan": b'{"status":NaN,"messageid":"x"}',
    "status-other-digits": '{"status":"\u0660","messageid":"x"}'.encode(),
    "refused-with-an-id": b'{"status":"9","messageid":"x"}',
    "system-error-with-an-id": b'{"status":"11","messageid":"x"}',
    "status-3": b'{"status":"3","status_code":"new"}',
    "html": b"<html>Bad gateway</html>",
}


@pytest.mark.parametrize("form", DISHONEST)
def test_an_answer_in_no_honest_form_may_have_sent(
    sending: Service, kept_provider: Provider, form: str
) -> None:
    assert_perhaps_sent(sending, kept_provider, form, bytes_answered(DISHONEST[form]))


PADDED = json.dumps({"status": "0", "messageid": "x", "more": "x" * 65536}).encode()


DAMAGED = {
    "cut": (gzip.compress(ACCEPTED)[:-4], GZIP),
    "more": (gzip.compress(ACCEPTED) + b"more", GZIP),
    "damaged": (gzip.compress(ACCEPTED)[:-8] + b"\0" * 8, GZIP),
    "long": (gzip.compress(PADDED), GZIP),
    "bomb": (zlib.compress(b" " * 2**26 + ACCEPTED), DEFLATE),
    "long-bare": (bare_deflate(PADDED), DEFLATE),
    "twice": (gzip.compress(gzip.compress(ACCEPTED)), "Content-Encoding: gzip, gzip"),
    "brotli": (b"\x1b\x15\x00\x00", "Content-Encoding: br"),
    "long-plain": (ACCEPTED + b" " * 65536, "X-Long: 1"),
}


@pytest.mark.parametrize("form", DAMAGED)
def test_a_compressed_answer_that_is_not_whole_or_too_long_may_have_sent(
    sending: Service, kept_provider: Provider, form: str
) -> None:
    assert_perhaps_sent(sending, kept_provider, form, bytes_answered(*DAMAGED[form]))


def assert_perhaps_sent(service: Service, provider: Provider, name: str, answer: bytes) -> None:
    provider.will_answer(answer)
    problem = service.send(reference=name, idempotency_key=name)
    again = service.send(reference=name, idempotency_key=name)
    (found,) = service.found_by(name)

    assert (problem.status_code, problem.json()["code"]) == (502, "provider_bad_answer")
    assert problem.json()["messageid"] == found["messageid"]
    assert again.content == problem.content
    assert len(provider.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        bytes_answered(REFUSED.encode("gbk")),
        bytes_answered(REFUSED.encode("gb18030")),
        bytes_answered(REFUSED.encode("utf-8-sig")),
        bytes_answered(gzip.compress(REFUSED.encode("gbk")), GZIP),
        answered({"status": 9, "status_code": "余额不足", "messageid": None}),
        answered({"status": "9", "status_code": "余额不足", "messageid": ""}),
    ],
    ids=["gbk", "gb18030", "mark", "gbk-in-gzip", "number", "empty-id"],
)
def test_the_text_of_a_refusal_is_shown_whatever_its_encoding(
    sending: Service, kept_provider: Provider, answer: bytes
) -> None:
    kept_provider.will_answer(answer)

    refused = sending.send()

    assert (refused.status_code, refused.json()["code"]) == (502, "provider_restricted")
    assert refused.json()["provider"] == {"status": 9, "status_code": "余额不足"}


def test_all_odd_answers_of_the_simulator_are_understood(database_url: URL) -> None:
    port = free_port()
    odd = ("--odd-answers", "1", "--seed", "1", "--balance", "40", *only("never"))
    with (
        running_service(database_url, **account_on(port)) as service,
        send_api("http://127.0.0.1:1/", *odd, port=port) as simulator,
    ):
        answers = [service.send() for _ in range(60)]
        sent = [event["messageid"] for event in simulator.events("sent")]

    assert [answer.status_code for answer in answers] == [201] * 40 + [502] * 20
    assert [answer.json()["messageid"] for answer in answers[:40]] == sent
    assert {answer.json()["code"] for answer in answers[40:]} == {"provider_restricted"}
