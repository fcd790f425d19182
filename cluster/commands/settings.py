"""`bonfire settings`: what can be set."""

from __future__ import annotations

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from cluster.config.parse import section_of
from cluster.config.schema import RunConfig
from learner.verifier.config import VerifierTrainingConfig


def show_settings(word: str = "") -> None:
    """Every setting whose dotted path has `word` in it, with default and meaning.

    Raises ValueError where there is none.
    """
    console = Console(highlight=False)
    shown = _show_section(console, RunConfig, "", word)
    heading = "\n[bold cyan]\\[train-verifier][/bold cyan] given as --set key=value, in no file"
    shown += _show_section(console, VerifierTrainingConfig, "", word, heading=heading)
    if not shown:
        raise ValueError(f"no setting has {word!r} in its path: see `bonfire settings` for all")


def _show_section(
    console: Console, model: type[BaseModel], prefix: str, word: str, *, heading: str | None = None
) -> int:
    """How many settings of the section, and of those in it, were shown; the heading only where there are any."""
    sections: list[tuple[str, type[BaseModel]]] = []
    shown = 0
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            sections.append((name, section))
            continue
        if word not in f"{prefix}{name}":
            continue
        if heading is not None and not shown:
            console.print(heading, soft_wrap=True)
        shown += 1
        default = "required" if field.is_required() else f"{field.default!r}"
        if field.default_factory is not None:
            default = field.default_factory.__doc__ or ""
        console.print(f"[bold]{prefix}{name}[/bold] = {escape(default)}", soft_wrap=True)
        # In a pipe a line is what grep finds; on a screen it is wrapped by words.
        console.print(f"    {escape(field.description or '')}", soft_wrap=not console.is_terminal)
    for name, section in sections:
        meaning = escape((section.__doc__ or "").splitlines()[0])
        if model.model_fields[name].default is None:
            meaning += " Left out unless a setting of it is given."
        below = f"\n[bold cyan]\\[{prefix}{name}][/bold cyan] {meaning}"
        shown += _show_section(console, section, f"{prefix}{name}.", word, heading=below)
    return shown
