"""Templates of the pages. What a run wrote is text, never markup: every value is escaped by the engine itself."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cluster.view.report_tables import estimate_text, number

HERE = Path(__file__).parent
STATIC = HERE / "static"
NEAR_CERTAIN = (0.9, 0.7, 0.5, 0.3, 0.1, 0.03, 0.01, 0.001)
"""Chances of a token that divide its colours."""


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "estimate": estimate_text,
        "value": value_text,
        "whole": lambda value: f"{value:,}",
        "percent": lambda value: "" if value is None or not math.isfinite(value) else f"{100 * value:.0f} %",
        "json_data": json_data,
        "query": lambda query: urlencode(query),
        "segment": lambda text: quote(text, safe=""),
        "ago": ago,
        "day": lambda seconds: time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)),
    }
    return environment


def value_text(value: float | None) -> str:
    """A score, reward or weight in as few signs as tell it: 0, 1, 0.0623, -inf; empty for NaN."""
    if value is None or math.isnan(value):
        return ""
    return f"{value + 0.0:.3g}"


def ago(seconds: float) -> str:
    """12 s, 5 min, 3 h, 2 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def json_data(value: Any) -> Markup:
    """JSON for a script element of type application/json: no character of it can end that element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign, code in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(sign, code)
    return Markup(text)


def token_class(logprob: float) -> str:
    """c0 for a token that was nearly certain, to c8 for one of less than a chance in a thousand."""
    chance = math.exp(min(0.0, logprob))
    return f"c{sum(chance < edge for edge in NEAR_CERTAIN)}"


ENVIRONMENT = _environment()


def render(name: str, context: Mapping[str, Any]) -> str:
    """A page; a name that the template knows and the context does not is a fault of ours."""
    return ENVIRONMENT.get_template(name).render(context)
