"""A study's tables on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from benchmarks.study.report import Rows

HIDDEN = ("lr", "seeds")
"""Columns that a narrow screen has no room for; they are in study.json."""

TEXT = ("arm", "against")


def screen_table(rows: Rows) -> Table:
    """One of the report's tables, bold where Markdown is."""
    header = rows[0]
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for name in header:
        if name not in HIDDEN:
            table.add_column(name, justify="left" if name in TEXT else "right", no_wrap="change" in name)
    for cells in rows[1:]:
        shown = [text for name, text in zip(header, cells, strict=True) if name not in HIDDEN]
        table.add_row(*(Text(t.strip("*"), style="bold" if t.startswith("**") else "") for t in shown))
    return table
