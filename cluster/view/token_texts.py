"""Which part of a text each token is, by the run's own tokenizer. Rust's `tokenizers` alone, no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from cluster.run_directory.record import finished_checkpoints

TOKENIZER_FILE = "tokenizer.json"
CONTEXT = 4
"""Tokens before one that decide how it is written: a space, the rest of a character."""
HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class TokenTexts:
    """A tokenizer file, read when first asked for."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._tokenizer: Tokenizer | None = None

    @property
    def reason(self) -> str | None:
        """Why no tokens can be shown; None where they can."""
        if self._path is None:
            return f"there is no {TOKENIZER_FILE} in the run's checkpoints or its model's directory"
        if self._tokenizer is None:
            try:
                self._tokenizer = Tokenizer.from_file(str(self._path))
            except Exception as error:  # noqa: BLE001  of a Rust library, which raises plain Exception
                return f"{self._path} cannot be read ({str(error).splitlines()[0]})"
        return None

    def text(self, ids: Sequence[int]) -> str | None:
        """All tokens as one text, special ones included; None where there is no tokenizer."""
        if self.reason is not None or self._tokenizer is None:
            return None
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def pieces(self, ids: Sequence[int]) -> list[str] | None:
        """The text that each token adds to those before it; None where there is no tokenizer.

        A character of several tokens is written at its last one.
        """
        if self.reason is not None or self._tokenizer is None:
            return None
        tokenizer, pieces, begun = self._tokenizer, [], 0
        for i in range(len(ids)):
            start = max(0, min(begun, i) - CONTEXT)
            before = tokenizer.decode(list(ids[start:begun]), skip_special_tokens=False)
            now = tokenizer.decode(list(ids[start : i + 1]), skip_special_tokens=False)
            if now.endswith(HALF_CHARACTER) and i + 1 < len(ids) and i - begun < CONTEXT:
                pieces.append("")
                continue
            pieces.append(now[len(before) :])
            begun = i + 1
        return pieces


def find_tokenizer(run_dir: Path, model: str) -> Path | None:
    """The tokenizer of the newest checkpoint, or of the model's own directory."""
    places = [checkpoint / "model" for checkpoint in reversed(finished_checkpoints(run_dir))]
    return next(
        (place / TOKENIZER_FILE for place in [*places, Path(model)] if (place / TOKENIZER_FILE).is_file()),
        None,
    )
