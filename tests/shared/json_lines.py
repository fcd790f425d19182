"""Files of rows for tests to read."""

from __future__ import annotations

import json
from pathlib import Path


def write_rows(path: Path, *rows: object) -> str:
    """JSON lines; a string is a line as it stands."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)
