"""What a model that judges is shown: a prompt and a candidate, filled into a text of the user's."""

from __future__ import annotations

import re
from typing import Any


def fill(template: str, *, prompt: str, completion: str) -> str:
    """The template with `{prompt}` and `{completion}` replaced; all else is literal, what is filled in too."""
    texts = {"{prompt}": prompt, "{completion}": completion}
    return re.sub(r"\{prompt\}|\{completion\}", lambda match: texts[match[0]], template)


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches every text that the tokenizer turns into a control token (end of turn, padding, ...).

    A candidate that spells one could end its own turn and speak for the judge: such a candidate is refused.
    """
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts = sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")
