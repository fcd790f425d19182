"""The model's own tokenizer: prompts to token ids, completions to text, which tokens end one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verifiers.types import Problem


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a local checkpoint or hub id. Raises ValueError naming a model without one."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model = {model!r} has no tokenizer that loads ({str(error).splitlines()[0]}): "
            "give a checkpoint directory or a hub id with tokenizer files"
        ) from error


def stop_token_ids(model: str, tokenizer: Any) -> list[int]:
    """Tokens that end a completion: those of the generation config, else the tokenizer's.

    The tokenizer's own comes first where it is among them: in a chat model it is the one that ends a turn.
    """
    from transformers import GenerationConfig

    stop: Any = None
    path = Path(model) / "generation_config.json"
    if path.exists():
        stop = json.loads(path.read_text()).get("eos_token_id")
    elif not Path(model).exists():
        stop = GenerationConfig.from_pretrained(model).eos_token_id
    if stop is None:
        stop = tokenizer.eos_token_id
    if stop is None:
        raise ValueError(f"model = {model!r} names no end-of-sequence token: set it in its generation_config")
    return sorted(
        [stop] if isinstance(stop, int) else stop, key=lambda token: token != tokenizer.eos_token_id
    )


def encode_prompts(tokenizer: Any, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
    """Token ids of each prompt, by the chat template where the tokenizer has one."""
    if not problems:
        return []
    if getattr(tokenizer, "chat_template", None):
        rendered = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": problem.prompt}], add_generation_prompt=True, tokenize=False
            )
            for problem in problems
        ]
        ids = tokenizer(rendered, add_special_tokens=False).input_ids
    else:
        ids = tokenizer([problem.prompt for problem in problems]).input_ids
    return [tuple(prompt) for prompt in ids]


def encode_demonstrations(
    tokenizer: Any, problems: Sequence[Problem], stop_token_id: int
) -> list[tuple[int, ...]]:
    """Token ids of each problem's demonstration as the model would have sampled them: the text on its own,
    no token before it, the stop token after it.
    """
    if not problems:
        return []
    ids = tokenizer([problem.demonstration for problem in problems], add_special_tokens=False).input_ids
    return [(*completion, stop_token_id) for completion in ids]


def decode(tokenizer: Any, completions: Sequence[Sequence[int]]) -> list[str]:
    """Text of each completion, special tokens left out."""
    return tokenizer.batch_decode(completions, skip_special_tokens=True, clean_up_tokenization_spaces=False)
