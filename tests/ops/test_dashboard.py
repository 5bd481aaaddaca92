"""The dashboard: made by its script, of metrics that `/metrics` shows."""

import json
import re
from typing import Any

from deploy.grafana.dashboard import COLUMNS, FILE, as_text
from tests.ops.promql import FOREIGN, metrics_in, names_exposed, values_in
from tests.service import Service

PANELS: list[Any] = json.loads(FILE.read_text())["panels"]
QUERIES = [
    (panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", ())
]


def test_the_committed_file_is_what_its_script_makes() -> None:
    assert FILE.read_text() == as_text(), "make dashboard"


def test_panels_show_what_is_exposed(service: Service) -> None:
    page = service.get("/metrics").text
    names = names_exposed(page) | FOREIGN

    assert len(QUERIES) > 40
    for title, query in QUERIES:
        assert metrics_in(query) <= names, title
        for metric, label, value in values_in(query):
            line = rf'^{metric}\{{.*\b{label}="{re.escape(value)}'
            assert re.search(line, page, re.MULTILINE), (title, metric, label, value)


def test_panels_have_an_id_each_and_do_not_overlap() -> None:
    places = [
        (x, y)
        for panel in PANELS
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < COLUMNS
