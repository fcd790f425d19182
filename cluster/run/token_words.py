"""Words that a base model's own tokenizer does not know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.config.schema import RunConfig


@contextmanager
def naming_unknown_words(where: str, config: RunConfig) -> Iterator[None]:
    """Words that the base model's own tokenizer does not know become an error in one line."""
    try:
        yield
    except Exception as error:
        if "WordLevel" not in str(error):
            raise
        raise ValueError(
            f"{where} has a word that model = {config.model!r} has no token for: {error}"
        ) from None
