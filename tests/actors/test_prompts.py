"""From a row to the tokens a model reads: prompt templates, chat templates, and what ends a turn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from pydantic import ValidationError
from transformers import GenerationConfig

from actors.chat import end_of_turn_id, unread_arguments
from actors.config import ChatConfig
from actors.tokens import encode_demonstrations, encode_prompts, stop_token_ids
from cluster.config.parse import parse_config
from cluster.evaluation.identity import sampling_identity
from cluster.run.intake import check_prompts
from cluster.run.preflight import check_demonstrations
from cluster.run_directory.identity import identity
from learner.sft import build_tokenizer
from tests.shared.refusals import refusal
from verifiers.problems.prompt_template import field_names, fill
from verifiers.types import Problem

FIELDS = {
    "level": 3,
    "tests": ["a", "b"],
    "hint": "use {level} and \\1",
    "x": 0.5,
    "nothing": None,
    "answer": "42",
}


# Prompt templates


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{prompt}", "P {level}"),
        ("Q{level}: {prompt}\n{tests}", "Q3: P {level}\na\nb"),
        ("{prompt} {hint} {x}", "P {level} use {level} and \\1 0.5"),
        ('{prompt} {"a": {"b": []}} {} {1} { level }', 'P {level} {"a": {"b": []}} {} {1} { level }'),
        ("{prompt} {{answer}} {{unknown}}", "P {level} {answer} {unknown}"),
        (r"{prompt} \boxed{answer} \frac{x}{level} \n{x}", r"P {level} \boxed{answer} \frac{x}{level} \n{x}"),
        (r"\text{ {prompt} }", r"\text{ P {level} }"),
    ],
)
def test_braces_around_a_name_stand_for_a_field_and_all_others_for_themselves(
    template: str, text: str
) -> None:
    assert fill(template, "P {level}", FIELDS) == text


def test_the_names_in_a_template_are_those_that_are_filled_in() -> None:
    assert field_names(r"{prompt} {{a}} \b{c} {d_1} {}") == {"prompt", "d_1"}


def test_a_name_that_the_row_lacks_is_an_error_that_names_the_escape() -> None:
    with pytest.raises(ValueError) as error:
        fill("{prompt} {levle}", "P", {"level": 3})
    assert str(error.value) == (
        "problems.prompt_template asks for {levle}; it has 'level': correct the name, or write {{levle}} for the "
        "braces themselves"
    )
    with pytest.raises(
        ValueError, match=r"asks for \{nothing\}, which is None: make it a text, a number or a list"
    ):
        fill("{nothing}", "P", FIELDS)


# Chat templates, in the manner of models that are much used: how a turn begins, how it ends, what begins a text

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>\n{% endif %}{% endif %}"
)
WITHOUT_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
ENDED_BY_EOS = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} {{ eos_token }}"
    "{% else %}{{ bos_token }}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
ENDED_BY_NOTHING = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
BOS, EOS, START, END = 0, 1, 2, 3
PROBLEM = Problem(id="p", prompt="1+1?", demonstration="2")


def make_tokenizer(chat_template: str | None) -> Any:
    """One token a byte, four special ones; it begins every text with <bos>, as Llama's does."""
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["<bos>", "<eos>", "<|im_start|>", "<|im_end|>"]
    symbols = [*special, *sorted(ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({symbol: index for index, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    fast.chat_template = chat_template
    return fast


def prompt_text(tokenizer: Any, **chat: Any) -> str:
    (ids,) = encode_prompts(tokenizer, [PROBLEM], ChatConfig(**chat))
    return tokenizer.decode(ids)


def test_a_prompt_becomes_a_users_turn_after_the_system_prompt() -> None:
    tokenizer = make_tokenizer(CHATML)
    assert prompt_text(tokenizer) == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_text(tokenizer, system_prompt="Be brief.") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt_text(tokenizer, arguments={"enable_thinking": False}).endswith(
        "assistant\n<think></think>\n"
    )
    assert prompt_text(tokenizer, template="always") == prompt_text(tokenizer)


def test_the_templates_special_tokens_are_one_token_each_and_not_doubled() -> None:
    (ids,) = encode_prompts(make_tokenizer(WITHOUT_SYSTEM), [PROBLEM])
    assert (ids.count(BOS), ids.count(START), ids.count(END)) == (1, 2, 1) and ids[:2] == (BOS, START)
    (ids,) = encode_prompts(make_tokenizer(ENDED_BY_EOS), [PROBLEM])
    assert ids.count(BOS) == 1 and ids[0] == BOS


def test_encoding_agrees_with_the_tokenizers_own_way_to_encode_a_chat() -> None:
    for template in (CHATML, WITHOUT_SYSTEM, ENDED_BY_EOS, ENDED_BY_NOTHING):
        tokenizer = make_tokenizer(template)
        turns = [{"role": "user", "content": PROBLEM.prompt}]
        theirs = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert encode_prompts(tokenizer, [PROBLEM]) == [tuple(theirs)]


def test_without_a_chat_template_or_if_told_so_a_prompt_is_encoded_as_it_is() -> None:
    for tokenizer, chat in (
        (make_tokenizer(None), ChatConfig()),
        (make_tokenizer(CHATML), ChatConfig(template="never")),
    ):
        assert encode_prompts(tokenizer, [PROBLEM], chat) == [tuple(tokenizer("1+1?").input_ids)]
        assert tokenizer("1+1?").input_ids[0] == BOS


@pytest.mark.parametrize(
    ("template", "end"),
    [(CHATML, END), (WITHOUT_SYSTEM, END), (ENDED_BY_EOS, EOS), (ENDED_BY_NOTHING, None)],
)
def test_the_token_that_ends_a_turn_is_found_in_the_template(template: str, end: int | None) -> None:
    assert end_of_turn_id(make_tokenizer(template), ChatConfig()) == end


@pytest.mark.parametrize(
    ("template", "chat", "in_config", "stops"),
    [
        (None, "auto", None, [EOS]),
        (None, "auto", [7, EOS], [EOS, 7]),
        (CHATML, "never", EOS, [EOS]),
        (CHATML, "auto", EOS, [END, EOS]),
        (CHATML, "auto", [EOS, END], [END, EOS]),
        (CHATML, "auto", None, [END, EOS]),
        (ENDED_BY_EOS, "auto", EOS, [EOS]),
        (ENDED_BY_NOTHING, "always", [7, EOS], [EOS, 7]),
    ],
)
def test_a_chat_stops_at_the_end_of_its_turn_too_and_demonstrations_end_there(
    tmp_path: Path, template: str | None, chat: Any, in_config: Any, stops: list[int]
) -> None:
    tokenizer = make_tokenizer(template)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": in_config}))
    found = stop_token_ids(str(tmp_path), tokenizer, ChatConfig(template=chat))
    assert found == stops
    (demonstration,) = encode_demonstrations(tokenizer, [PROBLEM], found[0])
    assert demonstration == (*tokenizer("2", add_special_tokens=False).input_ids, stops[0])


def test_a_hub_model_without_generation_settings_ends_as_its_tokenizer_says(monkeypatch) -> None:
    """Offline what is not in the cache fails as what is not in a repository does: with an OSError."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError):
        GenerationConfig.from_pretrained("nobody/nothing")
    assert stop_token_ids("nobody/nothing", make_tokenizer(None)) == [EOS]


def test_a_prompt_and_its_demonstration_are_the_conversation_that_the_template_writes() -> None:
    tokenizer = make_tokenizer(CHATML)
    (prompt,) = encode_prompts(tokenizer, [PROBLEM])
    (demonstration,) = encode_demonstrations(tokenizer, [PROBLEM], END)
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    newline = tokenizer("\n", add_special_tokens=False).input_ids
    assert [*prompt, *demonstration, *newline] == whole


@pytest.mark.parametrize(
    ("template", "chat", "message"),
    [
        (
            None,
            {"template": "always"},
            "rollout.chat.template = 'always', and the model's tokenizer has no chat template",
        ),
        (
            None,
            {"system_prompt": "Be brief."},
            "rollout.chat.system_prompt = 'Be brief.' has no effect, as the model's",
        ),
        (
            None,
            {"arguments": {"a": 1}},
            "rollout.chat.arguments = {'a': 1} has no effect, as the model's tokenizer",
        ),
        (
            WITHOUT_SYSTEM,
            {"system_prompt": "Be brief."},
            "the chat template refuses ['system', 'user'] (System role not supported): change rollout.chat, or set",
        ),
    ],
)
def test_a_chat_that_cannot_be_had_is_refused_in_one_line(
    template: str | None, chat: Any, message: str
) -> None:
    with pytest.raises(ValueError) as error:
        encode_prompts(make_tokenizer(template), [PROBLEM], ChatConfig(**chat))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


# The run's settings reach the tokens


def test_the_runs_chat_settings_are_used_and_are_part_of_what_is_compared(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS}))
    (tmp_path / "config.json").write_text("{}")

    def config(**chat: Any) -> Any:
        rollout = {"chat": chat, "max_model_len": 128, "max_tokens": 16}
        sections = {"objective": {"name": "sft"}, "evaluation": {}, "rollout": rollout}
        return parse_config({"model": str(tmp_path), **sections})

    tokenizer = make_tokenizer(CHATML)
    brief, never = config(system_prompt="Be brief."), config(template="never")
    (prompt,) = check_prompts(brief, [PROBLEM], tokenizer)
    assert tokenizer.decode(prompt).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert check_prompts(never, [PROBLEM], tokenizer) == [tuple(tokenizer("1+1?").input_ids)]
    assert [check_demonstrations(c, [PROBLEM], tokenizer)[0][-1] for c in (brief, never)] == [END, EOS]
    assert identity(brief, [PROBLEM]) != identity(never, [PROBLEM])
    assert sampling_identity(brief, 4) != sampling_identity(never, 4)


def test_settings_of_a_chat_that_is_switched_off_are_errors() -> None:
    chat = {"template": "never", "system_prompt": "Be brief.", "arguments": {"a": 1}}
    with pytest.raises(ValueError) as error:
        parse_config({"model": "m", "rollout": {"chat": chat}}, source="run.toml")
    assert str(error.value) == (
        "run.toml: rollout.chat.system_prompt = 'Be brief.' has no effect with rollout.chat.template = 'never': remove it\n"
        "run.toml: rollout.chat.arguments = {'a': 1} has no effect with rollout.chat.template = 'never': remove it"
    )


def test_the_countdown_model_that_is_made_here_has_no_chat_template() -> None:
    tokenizer = build_tokenizer()
    problem = Problem(id="p", prompt="1 2 = 3 :")
    assert encode_prompts(tokenizer, [problem]) == [tuple(tokenizer("1 2 = 3 :").input_ids)]


# Conversations, and templates that leave something out


SAID = (("system", "Be brief."), ("user", "0+0?"), ("assistant", "0"))
IGNORES_USER = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}<|im_start|>"
)
IGNORES_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")


def test_what_was_said_before_the_prompt_goes_through_the_template() -> None:
    tokenizer = make_tokenizer(CHATML)
    (ids,) = encode_prompts(tokenizer, [replace(PROBLEM, turns=SAID)])
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n0+0?<|im_end|>\n"
        "<|im_start|>assistant\n0<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_a_template_the_system_turn_stands_above_the_prompt_and_other_talk_is_refused() -> None:
    tokenizer = make_tokenizer(None)
    (ids,) = encode_prompts(tokenizer, [replace(PROBLEM, turns=SAID[:1])])
    assert tokenizer.decode(ids) == "<bos>Be brief.\n\n1+1?"
    assert refusal(lambda: encode_prompts(tokenizer, [replace(PROBLEM, turns=SAID)])).startswith(
        "problem 'p' is a conversation with turns of the assistant, and no chat template writes them: take a chat model"
    )


def test_two_system_turns_are_one_too_many() -> None:
    problem, chat = replace(PROBLEM, turns=SAID[:1]), ChatConfig(system_prompt="Think.")
    assert refusal(lambda: encode_prompts(make_tokenizer(CHATML), [problem], chat)) == (
        "problem 'p' begins with a system turn of its own, 'Be brief.', and rollout.chat.system_prompt is set: remove "
        "one of the two"
    )


@pytest.mark.parametrize(
    ("template", "role"),
    [("<|im_start|>assistant", "system"), (IGNORES_USER, "user"), (IGNORES_SYSTEM, "system")],
)
def test_a_template_that_leaves_a_text_out_is_refused(template: str, role: str) -> None:
    problem = replace(PROBLEM, turns=SAID[:1])
    assert refusal(lambda: encode_prompts(make_tokenizer(template), [problem])).startswith(
        f"the chat template leaves the {role}'s turn of problem 'p' out, "
    )


def test_a_template_may_trim_and_fold_what_it_writes() -> None:
    problem = Problem(id="p", prompt="  1 +\n\n 1? ")
    template = "{% for m in messages %}{{ m.content | trim | replace('\n', ' ') }}{% endfor %}"
    (ids,) = encode_prompts(make_tokenizer(template), [problem])
    assert len(ids) == len("1 +   1?")


@pytest.mark.parametrize(
    "broken", ["{{ messages[5].content }}", "{{ messages + 1 }}", "{{ 1 // 0 }}", "{% if %}"]
)
def test_a_template_that_fails_in_any_way_is_one_line(broken: str) -> None:
    assert "the chat template refuses ['user'] (" in refusal(
        lambda: encode_prompts(make_tokenizer(broken), [PROBLEM])
    )


def test_arguments_that_no_template_reads_are_known() -> None:
    chat = ChatConfig(arguments={"enable_thinking": False, "enable_thinkin": True})
    assert unread_arguments(make_tokenizer(CHATML), chat) == ["enable_thinkin"]
    assert unread_arguments(make_tokenizer({"default": CHATML}), chat) == ["enable_thinkin"]


@pytest.mark.parametrize("name", ["tokenize", "add_generation_prompt", "tools", "chat_template"])
def test_what_the_rendering_takes_for_itself_is_no_variable(name: str) -> None:
    with pytest.raises(ValidationError, match=rf"rollout\.chat\.arguments\.{name} is not yours to set"):
        ChatConfig(arguments={name: True})
