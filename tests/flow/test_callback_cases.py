"""Every line of `cases/callbacks.jsonl`, from the callback to the lookup."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.service import Service

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "cases" / "callbacks.jsonl")
    .read_text()
    .splitlines()
]
EXPECTED_OF_DELIVERY = (
    "to",
    "state",
    "final",
    "reason",
    "retryable",
    "statuscode",
    "errcode",
    "network",
)


@pytest.mark.parametrize("case", CASES, ids=[case["label"] for case in CASES])
def test_case(service: Service, case: dict[str, Any]) -> None:
    answer = service.call_back(case["query"])

    assert answer.status_code == case["http"], answer.text
    if case["http"] == 200:
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.text == "OK"
        delivery = service.delivery(parse_qs(case["query"])["messageid"][0].strip())
        expected = {name: case[name] for name in EXPECTED_OF_DELIVERY if name in case}
        assert {name: delivery[name] for name in expected} == expected
        assert case["query"] not in {refused["query"] for refused in service.quarantine()}
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == case["code"]
        (refused,) = (
            refused for refused in service.quarantine() if refused["query"] == case["query"]
        )
        assert refused["code"] == case["code"]
