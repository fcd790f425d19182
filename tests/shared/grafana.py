"""The panels of the dashboard that is shipped, and what they ask."""

from __future__ import annotations

import json
from typing import Any

from tests.shared.paths import ROOT

DASHBOARD = json.loads((ROOT / "deploy" / "monitoring" / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[tuple[str, str]]:
    """Panel and expression, for all of them, as Grafana writes them."""
    return [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]


def filled_in(expression: str) -> str:
    """As Grafana sends it, for all runs, at a scrape a second."""
    variables: dict[str, Any] = {"$instance": ".*", "$__rate_interval": "15s"}
    for name, value in variables.items():
        expression = expression.replace(name, value)
    return expression
