"""`make dashboard`: Grafana's model of the panels, into dashboard.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from deploy.grafana.panels import ROWS, Panel

FILE: Final = Path(__file__).with_name("dashboard.json")
COLUMNS: Final = 24  # of Grafana's grid
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
WHEN_THE_TIME_CHANGES: Final = 2


def dashboard() -> dict[str, Any]:
    """Grafana's model of the whole dashboard."""
    return {
        "uid": "paasoo-dlr",
        "title": "PaaSoo delivery reports",
        "tags": ["paasoo-dlr"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,  # one crosshair over all panels
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_choice_of_source(), _choice_of_job()]},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }


def _choice_of_source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}


def _choice_of_job() -> dict[str, Any]:
    query = "label_values(dlr_build_info, job)"
    return {
        "name": "job",
        "type": "query",
        "label": "Job",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "job"},
        "refresh": WHEN_THE_TIME_CHANGES,
        "current": {"text": "paasoo-dlr", "value": "paasoo-dlr"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    """The panels from left to right, each row under its heading."""
    number = y = 0
    for heading, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": heading, "gridPos": place, "panels": []}
        x, y = 0, y + 1
        for panel in panels:
            number += 1
            if x + panel.width > COLUMNS:
                x, y = 0, y + panel.height
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            yield {"id": number, "gridPos": place, **_model(panel)}
            x += panel.width
        y += panels[-1].height


def _model(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": promql(query),
                "legendFormat": legend,
                "range": panel.kind == "timeseries",
                "instant": panel.kind == "stat",
            }
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def promql(query: str) -> str:
    return query.replace("@", 'job="$job"').replace("[~]", "[$__rate_interval]")


def _defaults(panel: Panel) -> dict[str, Any]:
    (_, lowest), *higher = panel.steps
    steps: list[dict[str, Any]] = [{"value": None, "color": lowest}]
    steps += [{"value": value, "color": colour} for value, colour in higher]
    names = {str(value): {"text": name} for value, name in panel.names.items()}
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "noValue": panel.if_none,
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": [{"type": "value", "options": names}] if names else [],
    }
    if panel.kind == "timeseries":
        defaults |= {"min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}
    return defaults


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "background",
            "graphMode": "none",
            "textMode": panel.shows,
        }
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def as_text() -> str:
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_text(), encoding="utf-8")
