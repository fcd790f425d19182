"""What `bonfire objectives` prints: the table of objectives, or one entry whole."""

from __future__ import annotations

from dataclasses import fields

from rich.console import Console
from rich.table import Table
from rich.text import Text

from learner.objectives.config import SETTINGS
from learner.objectives.table import OBJECTIVES, Row
from verifiers.section_config import did_you_mean


def show_objectives(name: str | None, console: Console | None = None) -> None:
    """Print the table, or the row `name`. Raises ValueError for a name that is not in it."""
    console = console or Console(highlight=False)
    if name is None:
        console.print(_table())
        console.print(Text("bonfire objectives NAME: its formula, source, settings and limits"))
        return
    if name not in OBJECTIVES:
        raise ValueError(
            f"{name!r} is not an objective{did_you_mean(name, OBJECTIVES)}: use one of {', '.join(OBJECTIVES)}"
        )
    console.print(Text(f"objective.name = {name!r}", style="bold"))
    console.print(_entry(name))


def _table() -> Table:
    table = Table(box=None, padding=(0, 2, 1, 0), header_style="bold")
    table.add_column("objective", no_wrap=True)
    table.add_column("maximises", ratio=1)
    table.add_column("when to use it", ratio=1)
    for name, row in OBJECTIVES.items():
        table.add_row(Text(name, style="bold"), Text(row.estimand), Text(row.use))
    return table


def _entry(name: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    texts = {field.name: getattr(OBJECTIVES[name], field.name) for field in fields(Row)}
    del texts["weights"]
    texts["settings"] = ", ".join(f"objective.{setting}" for setting in SETTINGS[name]) or "none"
    for label, text in texts.items():
        table.add_row(label.replace("_", " "), Text(text))
    return table
