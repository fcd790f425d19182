r"""Prompts from templates: braces around a name stand for a field, all other braces for themselves.

| written            | becomes                                                              |
|--------------------|----------------------------------------------------------------------|
| `{prompt}`         | the prompt field, whatever its name                                  |
| `{name}`           | the row's field of that name, `{a.b}` a nested one; an error where   |
|                    | the row has none                                                     |
| `{{name}}`         | `{name}`                                                             |
| `\boxed{name}`     | itself: what follows a LaTeX command is no field (else a template    |
|                    | that asks for `\boxed{answer}` would give the answer away)           |
| `{"a": 1}`, `{}`   | themselves: no name stands between the braces                        |

What is put in is not looked at again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from verifiers.problems.fields import Missing, look_up, names

_NAME = r"[A-Za-z_]\w*(?:\.\w+)*"
_PATTERN = re.compile(
    rf"(?P<latex>\\[A-Za-z]+(?:\{{[^{{}}]*\}})+)|\{{\{{(?P<literal>{_NAME})\}}\}}|\{{(?P<field>{_NAME})\}}"
)


def field_names(template: str) -> set[str]:
    """Names of the fields that the template asks for, `prompt` included."""
    return {match["field"] for match in _PATTERN.finditer(template) if match["field"]}


def fill(template: str, prompt: str, fields: Mapping[str, Any]) -> str:
    """The template with the row's values: texts as they are, a list of texts one to a line, numbers as in JSON.

    Raises ValueError for a name that the row lacks, and for a value of another kind.
    """

    def replace(match: re.Match[str]) -> str:
        if match["latex"]:
            return match["latex"]
        if match["literal"]:
            return f"{{{match['literal']}}}"
        name = match["field"]
        return prompt if name == "prompt" else _as_text(name, fields)

    return _PATTERN.sub(replace, template)


def _as_text(name: str, fields: Mapping[str, Any]) -> str:
    try:
        value = look_up(fields, name)
    except Missing:
        raise ValueError(
            f"problems.prompt_template asks for {{{name}}}; it has {names(fields)}: correct the name, or write "
            f"{{{{{name}}}}} for the braces themselves"
        ) from None
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    raise ValueError(
        f"problems.prompt_template asks for {{{name}}}, which is {value!r}: make it a text, a number or a list of texts"
    )
