"""The lines of a file that a run appends to, each taken once. A resume rewinds the file: another one under its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

CHUNK_BYTES = 1 << 18


class AppendedLines:
    """A reader's own place in the file. What is not taken yet lies there: nothing is kept in memory."""

    def __init__(self, path: Path, *, on_rewound: Callable[[], None] = lambda: None) -> None:
        """`on_rewound`: all lines taken so far are void, since the file was replaced, became shorter or is gone."""
        self._path = path
        self._on_rewound = on_rewound
        self._identity: tuple[int, int] | None = None
        self._offset = 0

    def take(self) -> Iterator[bytes]:
        """Whole lines from this place on, which moves on as they are taken; none where there is no file.

        Raises OSError for one that cannot be read.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            self._begin_anew(None)
            return
        with file:
            about = os.fstat(file.fileno())
            identity = (about.st_dev, about.st_ino)
            if identity != self._identity or about.st_size < self._offset:
                self._begin_anew(identity)
            file.seek(self._offset)
            while chunk := file.readlines(CHUNK_BYTES):
                for line in chunk:
                    if not line.endswith(b"\n"):
                        return
                    self._offset += len(line)
                    yield line

    def _begin_anew(self, identity: tuple[int, int] | None) -> None:
        if self._identity is not None:
            self._on_rewound()
        self._identity, self._offset = identity, 0
