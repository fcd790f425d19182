"""The names that programs for APPS and LiveCodeBench find without importing them, as in the harnesses of both.

Runs inside the sandbox, in the candidate's process: standard library only. Solutions of LeetCode's problems write
`List[int]` without an import. Later lines win, so `pow` is the builtin and not that of `math`.
"""

from __future__ import annotations

from typing import Any

_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
_SOURCE = "".join(f"from {name} import *\n" for name in _MODULES) + "".join(
    f"import {name}\n" for name in (*_MODULES, "time", "fractions", "os")
)
_CODE = compile(_SOURCE, "<common imports>", "exec", dont_inherit=True)


def import_commons(namespace: dict[str, Any]) -> None:
    """Define them in a program's namespace, before the program runs."""
    exec(_CODE, namespace)  # noqa: S102  our own imports
