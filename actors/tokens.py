"""The model's own tokenizer: prompts to token ids, completions to text, which tokens end one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from actors.chat import end_of_turn_id, plain_prompt, rendered_prompt, uses_chat_template
from actors.config import ChatConfig
from actors.model_files import GENERATION_CONFIG, end_tokens, read_object
from verifiers.types import Problem

NO_SETTINGS = ChatConfig()


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a local checkpoint or hub id. Raises ValueError, in one line, for a model without one."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (
        Exception
    ) as error:  # of damaged files: KeyError, TypeError, and the tokenizers library's own Exception
        why = next(iter(str(error).splitlines()), "")
        if not isinstance(error, OSError | ValueError):
            why = f"{type(error).__name__}: {why}"
        raise ValueError(
            f"model = {model!r} has no tokenizer that loads ({why[:300]}): "
            "give a checkpoint directory or a hub id with tokenizer files"
        ) from error


def stop_token_ids(model: str, tokenizer: Any, chat: ChatConfig = NO_SETTINGS) -> list[int]:
    """Tokens that end a completion: those of the generation config, else the tokenizer's; and in a chat, what
    ends a turn.

    The first is the one that a completion of an expert's ends with: that of the turn, or else the tokenizer's
    own where it is among them.
    """
    from transformers import GenerationConfig

    stop: Any = None
    path = Path(model) / GENERATION_CONFIG
    if path.exists():
        stop = end_tokens(path, read_object(path))
    elif not Path(model).exists():
        with suppress(OSError):  # a repository may have none, as a directory
            stop = GenerationConfig.from_pretrained(model).eos_token_id
    if stop is None:
        stop = tokenizer.eos_token_id
    end_of_turn = end_of_turn_id(tokenizer, chat) if uses_chat_template(tokenizer, chat) else None
    if stop is None and end_of_turn is None:
        raise ValueError(f"model = {model!r} names no end-of-sequence token: set it in its generation_config")
    stops = [] if stop is None else [stop] if isinstance(stop, int) else stop
    first = tokenizer.eos_token_id if end_of_turn is None else end_of_turn
    missing = [] if end_of_turn is None or end_of_turn in stops else [end_of_turn]
    return sorted([*missing, *stops], key=lambda token: token != first)


def encode_prompts(
    tokenizer: Any, problems: Sequence[Problem], chat: ChatConfig = NO_SETTINGS, *, checks_text: bool = True
) -> list[tuple[int, ...]]:
    """Token ids of each prompt, in the chat template if there is one to be used.

    `checks_text`: raise ValueError where it leaves out what is said; not for what a policy wrote.
    """
    if not problems:
        return []
    if uses_chat_template(tokenizer, chat):
        rendered = [
            rendered_prompt(tokenizer, problem, chat, checks_text=checks_text) for problem in problems
        ]
        # The template writes the special tokens itself: the tokenizer's own would be there twice.
        ids = tokenizer(rendered, add_special_tokens=False).input_ids
    else:
        ids = tokenizer([plain_prompt(problem) for problem in problems]).input_ids
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
