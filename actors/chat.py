"""A problem as a conversation, and the text that the tokenizer's chat template makes of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from actors.config import ChatConfig
from verifiers.types import Problem, Turn
from verifiers.wording import one_line

MAX_SHOWN_CHARS = 80
MAX_REASON_CHARS = 300


def uses_chat_template(tokenizer: Any, chat: ChatConfig) -> bool:
    """Whether prompts go through the tokenizer's chat template. Raises ValueError if they should and it has none."""
    there = bool(getattr(tokenizer, "chat_template", None))
    if not there and chat.template == "always":
        raise ValueError(
            "rollout.chat.template = 'always', and the model's tokenizer has no chat template: "
            "set it to 'auto', or take a chat model"
        )
    if not there and chat.only_with_template:
        name, value = next(iter(chat.only_with_template.items()))
        raise ValueError(
            f"rollout.chat.{name} = {value!r} has no effect, as the model's tokenizer has no chat template: remove it"
        )
    return there and chat.template != "never"


def rendered_prompt(tokenizer: Any, problem: Problem, chat: ChatConfig, *, checks_text: bool) -> str:
    """The problem as the template writes it, up to where the model begins to answer.

    Raises ValueError for turns that the template refuses and, with `checks_text`, for those of which it leaves the
    text out.
    """
    turns = _turns(problem, chat)
    rendered = render(tokenizer, turns, chat, add_generation_prompt=True)
    if not checks_text:
        return rendered
    there = _without_blanks(rendered)
    for role, text in turns:
        # A template may shorten what the assistant said: what it thought, say.
        if role != "assistant" and _without_blanks(text) not in there:
            raise ValueError(
                f"the chat template leaves the {role}'s turn of problem {problem.id!r} out, {_short(text)}: it writes "
                f"{_short(rendered)}; correct the template, change rollout.chat, or set rollout.chat.template = 'never'"
            )
    return rendered


def plain_prompt(problem: Problem) -> str:
    """The problem without a template: what was said before it and the prompt, a blank line between.

    Raises ValueError where the assistant speaks: nothing would tell its turns from the user's.
    """
    if any(role == "assistant" for role, _ in problem.turns):
        raise ValueError(
            f"problem {problem.id!r} is a conversation with turns of the assistant, and no chat template writes them: "
            "take a chat model, or name one turn, as in problems.prompt_field = 'prompt.0.content'"
        )
    return "\n\n".join([*(text for _, text in problem.turns), problem.prompt])


def end_of_turn_id(tokenizer: Any, chat: ChatConfig) -> int | None:
    """The special token that the chat template puts after an assistant's text; None if it puts none.

    The configs of many models name it, but not those of base models whose tokenizer has a chat template.
    """
    text = "bonfire"
    rendered = render(tokenizer, [("user", text), ("assistant", text)], chat, add_generation_prompt=False)
    after = tokenizer(rendered.rpartition(text)[2].lstrip(), add_special_tokens=False).input_ids
    special = {token for token, content in tokenizer.added_tokens_decoder.items() if content.special}
    return after[0] if after and after[0] in special else None


def unread_arguments(tokenizer: Any, chat: ChatConfig) -> list[str]:
    """Names in rollout.chat.arguments that do not occur in the template: they change nothing."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else " ".join(map(str, dict(template or {}).values()))
    return [name for name in chat.arguments if not re.search(rf"\b{re.escape(name)}\b", text)]


def render(tokenizer: Any, turns: Sequence[Turn], chat: ChatConfig, *, add_generation_prompt: bool) -> str:
    """The turns as the template writes them. Raises ValueError where it refuses them or is broken."""
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False, **chat.arguments
        )
    except Exception as error:  # the template is a program of the model's, and may fail in any way
        raise ValueError(
            f"the chat template refuses {[role for role, _ in turns]} ({one_line(error, MAX_REASON_CHARS)}): "
            "change rollout.chat, or set rollout.chat.template = 'never'"
        ) from error


def _turns(problem: Problem, chat: ChatConfig) -> list[Turn]:
    turns: list[Turn] = [*problem.turns, ("user", problem.prompt)]
    if chat.system_prompt is None:
        return turns
    if turns[0][0] == "system":
        raise ValueError(
            f"problem {problem.id!r} begins with a system turn of its own, {_short(turns[0][1])}, and "
            "rollout.chat.system_prompt is set: remove one of the two"
        )
    return [("system", chat.system_prompt), *turns]


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _short(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}...")
