"""Demonstrations before a run: checked, tokenised as the model would have sampled them, part of its identity."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from actors.tokens import encode_demonstrations, load_tokenizer, stop_token_ids
from cluster.config.parse import parse_config
from cluster.config.schema import RunConfig
from cluster.run.preflight import check_demonstrations
from cluster.run_directory.identity import identity
from learner.sft import EOS, VOCABULARY, build_tokenizer
from verifiers.countdown.puzzles import generate_problems
from verifiers.types import Problem

PROBLEMS = generate_problems(20, 3, held_out=False)


def config(model: object, **sections: dict[str, Any]) -> RunConfig:
    return parse_config({"model": str(model), "objective": {"name": "sft"}, **sections})


def test_a_demonstration_is_its_text_and_the_stop_token_and_nothing_before_it() -> None:
    tokenizer = build_tokenizer()
    encoded = encode_demonstrations(tokenizer, PROBLEMS, 1)
    for problem, ids in zip(PROBLEMS, encoded, strict=True):
        assert problem.demonstration is not None
        assert [VOCABULARY[token] for token in ids] == [*problem.demonstration.split(), EOS]
    assert encode_demonstrations(tokenizer, [], 1) == []


def test_a_tokenizer_that_begins_every_text_with_a_token_does_not_begin_demonstrations_so() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A", special_tokens=[("<pad>", 0)]
    )
    assert tokenizer("7").input_ids == [0, VOCABULARY.index("7")]
    problem = Problem(id="p", prompt="", demonstration="7")
    assert encode_demonstrations(tokenizer, [problem], 1) == [(VOCABULARY.index("7"), 1)]


def test_demonstrations_are_checked_only_for_objectives_that_imitate_them(tiny_model: Path) -> None:
    without = [dataclasses.replace(PROBLEMS[0], demonstration=None)]
    tokenizer = load_tokenizer(str(tiny_model))
    rloo = config(tiny_model, objective={"name": "rloo"})
    assert check_demonstrations(rloo, without, tokenizer) == []
    assert check_demonstrations(rloo, PROBLEMS, tokenizer) == []
    for name in ("sft", "bon_sft"):
        imitating = config(tiny_model, objective={"name": name})
        stop = stop_token_ids(str(tiny_model), tokenizer)[0]
        expected = encode_demonstrations(tokenizer, PROBLEMS, stop)
        assert check_demonstrations(imitating, PROBLEMS, tokenizer) == expected
        assert stop == VOCABULARY.index(EOS)


def test_a_base_model_that_is_still_to_be_made_stops_as_its_tokenizer_says(tmp_path: Path) -> None:
    future = config(tmp_path / "base", sft={})
    demonstrations = check_demonstrations(future, PROBLEMS, build_tokenizer())
    assert {ids[-1] for ids in demonstrations} == {VOCABULARY.index(EOS)}


def test_a_demonstration_ends_as_the_tokenizers_own_texts_do_where_several_tokens_stop(
    tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [7, tokenizer.eos_token_id, 5]})
    )
    assert stop_token_ids(str(tmp_path), tokenizer) == [tokenizer.eos_token_id, 7, 5]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 5]}))
    assert stop_token_ids(str(tmp_path), tokenizer) == [7, 5]


def test_a_demonstration_that_the_verifier_would_refuse_is_named(tiny_model: Path) -> None:
    problem = Problem(id="bad", prompt="", demonstration="1 + 2")
    short = config(
        tiny_model, objective={"name": "bon_sft", "num_select": 2}, verifier={"max_candidate_chars": 4}
    )
    message = (
        "^the demonstration of problem 'bad' has 5 characters, more than verifier.max_candidate_chars = 4: "
        "raise that, or drop the problem$"
    )
    with pytest.raises(ValueError, match=message):
        check_demonstrations(short, [problem], load_tokenizer(str(tiny_model)))


@pytest.mark.parametrize(
    ("demonstration", "max_tokens", "message"),
    [
        (
            None,
            16,
            (
                "problem 'bad' has no demonstration, and objective.name = 'sft' imitates one of every problem: "
                "set problems.demonstration_field, or choose another objective"
            ),
        ),
        (
            "1 + 2",
            3,
            (
                "the demonstration of problem 'bad' has 4 tokens with its stop token, more than "
                "rollout.max_tokens = 3: raise that, or drop the problem"
            ),
        ),
        ("1 plus 2", 16, "a demonstration has a word that model = '{model}' has no token for: "),
    ],
)
def test_a_demonstration_that_cannot_be_imitated_is_named_in_one_line(
    tiny_model: Path, demonstration: str | None, max_tokens: int, message: str
) -> None:
    problems = [
        Problem(id="good", prompt="", demonstration="1 2"),
        Problem(id="bad", prompt="", demonstration=demonstration),
    ]
    with pytest.raises(ValueError) as error:
        check_demonstrations(
            config(tiny_model, rollout={"max_tokens": max_tokens}), problems, load_tokenizer(str(tiny_model))
        )
    assert str(error.value).startswith(message.replace("{model}", str(tiny_model)))
    assert "\n" not in str(error.value)


def test_a_run_that_imitates_is_resumed_only_with_the_same_demonstrations() -> None:
    others = [dataclasses.replace(problem, demonstration="1") for problem in PROBLEMS]
    imitating, selecting = config("m"), config("m", objective={"name": "bon"})
    assert identity(imitating, PROBLEMS) != identity(imitating, others)
    assert identity(selecting, PROBLEMS) == identity(selecting, others)
