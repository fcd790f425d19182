"""What is said where something is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def refusal(call: Callable[[], object]) -> str:
    """The message of the ValueError, which must be one line."""
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)
