"""The OpenAPI document says what the service does: schemathesis calls it and compares."""

import re
from contextlib import suppress
from typing import Any

import openapi_spec_validator
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error, positive_data_acceptance
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import URL

from app.reports import normal_msisdn
from tests.service import ADMIN_KEY, TOKEN, Service, a_report, running_service

BRIEFLY = settings(
    max_examples=15,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
FITS_THE_DOCUMENT = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def the_document(service: Service) -> Any:
    answer = service.http.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def operations(service: Service) -> list[Any]:
    # JSON Schema can't forbid a NUL by a length, and the door does.
    config = schemathesis.Config.from_dict({"generation": {"allow-x00": False}})
    url = f"http://127.0.0.1:{service.port}/openapi.json"
    document = schemathesis.openapi.from_url(url, config=config)
    found = list(document.get_all_operations())
    assert all(isinstance(result, Ok) for result in found)
    return [result.ok() for result in found if isinstance(result, Ok)]


def call(case: Case[Any], service: Service) -> Any:
    """Call with what a stranger can't guess: the token and a key."""
    if "token" in case.path_parameters:
        case.path_parameters["token"] = TOKEN
    address = f"http://127.0.0.1:{service.port}"
    return case.call(base_url=address, headers={"Authorization": f"Bearer {ADMIN_KEY}"})


def bounded(case: Case[Any]) -> Case[Any]:
    """The case with what would take for ever, or what only the service can make, taken out."""
    if case.query:
        case.query.pop("cursor", None)
    if isinstance(case.body, dict):
        case.body.pop("cursor", None)
    if case.query:
        with suppress(KeyError, ValueError, TypeError):
            if 0 <= float(case.query["wait"]) <= 60:
                case.query["wait"] = "0.01"
    return case


def check_all(services: list[Service], mode: GenerationMode, checks: list[Any]) -> set[str]:
    """Call every operation that has cases of this mode; the paths that were called.

    Each case is for all services: to make it up takes longer than to call them.
    """
    called = set()
    for operation in operations(services[0]):
        if operation.path == "/v1/changes/stream":
            continue  # has no end; `tests/query/test_stream.py` is about it
        if mode is GenerationMode.NEGATIVE and not (operation.query or operation.path_parameters):
            continue  # nothing to get wrong

        @BRIEFLY
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Case[Any]) -> None:
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
                # JSON Schema can't say that two ways of writing a number are the same number.
                body: Any = case.body
                numbers = [normal_msisdn(to) for to in body.get("to", ())]
                assume(len(numbers) == len(set(numbers)))
                # Nor that a time is not to be before 1970.
                assume(str(body.get("submitted_at") or "2026") > "1970-01-03")
            for service in services:
                answer = call(bounded(case), service)
                not_set_up = answer.status_code == 503 and b"_not_configured" in answer.content
                case.validate_response(
                    answer,
                    checks=checks,
                    excluded_checks=[not_a_server_error] if not_set_up else [],
                )

        check()
        called.add(operation.path)
    return called


def test_valid_requests_are_taken_and_answered_as_documented(both_services: list[Service]) -> None:
    for service in both_services:
        service.call_back(a_report())

    called = check_all(
        both_services, GenerationMode.POSITIVE, [*FITS_THE_DOCUMENT, positive_data_acceptance]
    )

    assert {"/callback/paasoo/{token}", "/v1/messages/{messageid}", "/v1/quarantine"} <= called


def test_invalid_requests_are_answered_as_documented(both_services: list[Service]) -> None:
    called = check_all(both_services, GenerationMode.NEGATIVE, FITS_THE_DOCUMENT)

    assert {"/callback/paasoo/{token}", "/v1/messages/{messageid}", "/v1/quarantine"} <= called


def test_callback_is_documented_with_its_parameters(service: Service) -> None:
    paths = the_document(service)["paths"]

    assert list(paths["/callback/paasoo/{token}"]) == ["get"]
    callback = paths["/callback/paasoo/{token}"]["get"]
    assert {(one["in"], one["name"], one["required"]) for one in callback["parameters"]} == {
        ("path", "token", True),
        ("query", "type", True),
        ("query", "messageid", True),
        ("query", "to", True),
        ("query", "status", True),
        ("query", "statuscode", False),
        ("query", "errcode", False),
        ("query", "network", False),
    }
    assert set(callback["responses"]) == {"200", "400", "403", "404", "405", "414", "503"}
    assert set(callback["responses"]["200"]["content"]) == {"text/plain"}
    assert callback["security"] == []


def test_errors_are_documented_as_problems_and_as_nothing_else(service: Service) -> None:
    document = the_document(service)
    errors = {
        (path, status): response["content"]
        for path, methods in document["paths"].items()
        for operation in methods.values()
        for status, response in operation["responses"].items()
        if int(status) >= 400
    }

    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert errors == dict.fromkeys(errors, problem)
    assert set(document["components"]["schemas"]["Problem"]["required"]) == {
        *("type", "title", "status", "detail", "code")
    }


def test_status_api_is_documented_with_its_key(service: Service) -> None:
    document = the_document(service)
    (name,) = document["components"]["securitySchemes"]

    assert name == "bearer"  # a space in it makes the whole document invalid
    assert document["components"]["securitySchemes"][name]["type"] == "http"
    assert document["components"]["securitySchemes"][name]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/v1/"):
                assert operation["security"] == [{name: []}], f"{method} {path}"
                assert {"401", "403", "422"} <= operation["responses"].keys(), f"{method} {path}"


@pytest.mark.parametrize(
    ("changes", "server", "callback"),
    [
        ({}, "/", "/callback/paasoo/{token}"),
        ({"root_path": "/sms"}, "/sms", "/callback/paasoo/{token}"),
        (
            {"callback_tokens": None, "callback_allowed_networks": "127.0.0.0/8"},
            "/",
            "/callback/paasoo",
        ),
    ],
)
def test_document_is_valid_for_the_validator(
    sqlite_url: URL, changes: dict[str, str | None], server: str, callback: str
) -> None:
    with running_service(sqlite_url, **changes) as service:
        document = the_document(service)

    openapi_spec_validator.validate(document)
    assert document["servers"] == [{"url": server}]
    assert callback in document["paths"]


def test_operation_ids_are_plain_names_and_tags_are_explained(service: Service) -> None:
    document = the_document(service)
    found = [operation for methods in document["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in found]

    assert {"show_message", "list_deliveries", "list_changes", "receive_delivery_report"} <= {*ids}
    assert len(ids) == len({*ids})
    assert all(re.fullmatch("[a-z_]+", one) and not one.endswith("_get") for one in ids)
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    assert all(tags.values())
    assert tags.keys() == {tag for operation in found for tag in operation["tags"]}


def test_operations_without_a_key_say_so(service: Service) -> None:
    paths = the_document(service)["paths"]

    assert [paths[path]["get"]["security"] for path in ("/livez", "/readyz")] == [[], []]


def test_problem_is_documented_with_the_members_that_come(service: Service) -> None:
    problem = the_document(service)["components"]["schemas"]["Problem"]
    key = {"Authorization": f"Bearer {ADMIN_KEY}"}

    answers = [
        service.get("/v1/messages/unknown?nosuch=1"),
        service.get("/v1/messages/unknown"),
        service.http.delete("/v1/quarantine/unknown", headers=key),
    ]

    assert [answer.json().keys() - problem["properties"].keys() for answer in answers] == [
        set()
    ] * 3
    # Those of sending and of `/readyz`.
    assert {"provider", "outcome", "reference", "checks"} <= problem["properties"].keys()
    assert problem["properties"]["errors"]["items"] == {"$ref": "#/components/schemas/FieldFault"}
    assert {*answers[0].json()["errors"][0]} == {"field", "message"}


def test_not_ready_and_unauthorized_are_documented_where_they_occur(service: Service) -> None:
    paths = the_document(service)["paths"]

    assert "401" in paths["/metrics"]["get"]["responses"]
    assert "503" in paths["/readyz"]["get"]["responses"]


def test_docs_take_every_asset_from_this_service(service: Service) -> None:
    page = service.http.get("/docs")

    assert page.headers["content-type"].startswith("text/html")
    assert re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", page.text) == []
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(assets) >= 3
    for asset in assets:
        found = service.http.get(str(page.url.join(asset)))
        assert found.status_code == 200, asset
        assert found.content, asset
    assert "/openapi.json" in page.text


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/livez", "/readyz"])
def test_documentation_and_probes_need_no_key(service: Service, path: str) -> None:
    assert service.get(path, key=None).status_code == 200
