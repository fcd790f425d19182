"""Sections of a config in which one setting decides which of the others have an effect."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class DependentSettings(BaseModel, ABC):
    """Such a section: it refuses settings without effect when it is read, so it leaves them out when written.

    What is written reads back: a resolved config never trips the section's own check.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def _without_effect(self) -> Collection[str]:
        """Names of the fields that have no effect beside the others' values."""

    @model_serializer(mode="wrap")
    def _omit_settings_without_effect(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        without_effect = self._without_effect()
        return {field: value for field, value in serialize(self).items() if field not in without_effect}


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """For a message about a misspelt name: ` (did you mean PREFIXcloser?)`, or nothing where no name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""
