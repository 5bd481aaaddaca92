"""The alerts: each is documented, tested, and asks for what `/metrics` shows."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.promql import FOREIGN, metrics_in, names_exposed, values_in
from tests.process import ROOT
from tests.service import Service

FOLDER = ROOT / "deploy" / "prometheus"
PAGE = (ROOT / "docs" / "operating.md").read_text()
RULES: dict[str, Any] = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
TESTS = [
    test
    for file in sorted(FOLDER.glob("*_test.yml"))
    for test in yaml.safe_load(file.read_text())["tests"]
]


def anchors_of(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {words.replace(" ", "-") for words in kept}


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = RULES[name]
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")

    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert page == "docs/operating.md"
    assert anchor in anchors_of(ROOT / page)


def test_the_page_has_each_alert_with_its_severity() -> None:
    section = PAGE.partition("\n## Alerts\n")[2].partition("\n## ")[0]

    cells = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)

    severities = {
        name: "critical" if "(critical)" in cell else "warning"
        for cell in cells
        for name in re.findall(r"`(Dlr\w+)`", cell)
    }
    assert severities == {name: rule["labels"]["severity"] for name, rule in RULES.items()}


@pytest.mark.parametrize("name", RULES)
def test_an_alert_has_a_test_in_which_it_fires(name: str) -> None:
    fired = [
        sample["labels"]
        for test in TESTS
        for step in test["promql_expr_test"]
        for sample in step["exp_samples"]
    ]

    assert any(f'alertname="{name}"' in labels for labels in fired)


def test_all_that_alerts_look_at_is_there_while_nothing_fires() -> None:
    (well,) = (test for test in TESTS if test["name"] == "nothing fires while all is well")

    given = {series["series"].partition("{")[0] for series in well["input_series"]}

    looked_at = set().union(*(metrics_in(rule["expr"]) for rule in RULES.values()))
    assert given == looked_at


def test_alerts_look_at_what_is_exposed(service: Service) -> None:
    page = service.get("/metrics").text
    names = names_exposed(page) | FOREIGN

    for name, rule in RULES.items():
        assert metrics_in(rule["expr"]) <= names, name
        for metric, label, value in values_in(rule["expr"]):
            line = rf'^{metric}\{{.*\b{label}="{re.escape(value)}'
            assert re.search(line, page, re.MULTILINE), (name, metric, label, value)
