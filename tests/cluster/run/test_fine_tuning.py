"""What [sft] learns from: conversations as rollouts ask them, and which rows are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from actors.config import ChatConfig
from actors.tokens import encode_prompts
from cluster.config.parse import parse_config
from cluster.config.schema import RunConfig
from cluster.fleet.calls import WorkerLost
from cluster.run.base_model import STAMP, base_is_there, check_made_from, identity_of, make_by_fine_tuning
from cluster.run.fine_tuning import take_demonstrations, what_now
from learner.sft import VOCABULARY, build_tokenizer
from tests.shared.refusals import refusal
from verifiers.problems.loading import load_problems

TEMPLATE = (
    "{% for message in messages %}{{ '( ' if message.role == 'user' else '[ ' }}{{ message.content }} ) {% endfor %}"
    "{% if add_generation_prompt %}: {% endif %}"
)
SIDES = "which are trained"
ROWS = [{"id": f"p{n}", "prompt": f"{n} + 1 =", "solution": f"{n + 1}", "truth": n + 1} for n in range(40)]


def make_config(directory: Path, tiny_model: Path, rows: list[dict[str, Any]], **sections: Any) -> RunConfig:
    path = directory / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "model": str(directory / "tuned"),
        "problems": {
            "source": "files",
            "train_path": str(path),
            "id_field": "id",
            "demonstration_field": "solution",
            "truth_fields": {"answer": "truth"},
        },
        "rollout": {"max_tokens": 8, "max_model_len": 16},
        "sft": {"base_model": str(tiny_model), "held_out_share": 0.25},
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section}
    return parse_config(settings)


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_prompts_are_those_of_rollouts_and_completions_end_as_samples_do(tiny_model, tmp_path, template):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    config = make_config(tmp_path, tiny_model, ROWS)
    data = take_demonstrations(config, tokenizer)
    asked = encode_prompts(tokenizer, load_problems(config.problems, "train"), ChatConfig())
    sequences = data.sequences
    for number, prompt in enumerate(asked):
        start, length = sequences.starts[number], sequences.prompt_lengths[number]
        assert tuple(sequences.token_ids[start : start + length]) == prompt
        completion = sequences.token_ids[start + length :][: sequences.completion_lengths[number]]
        assert [VOCABULARY[token] for token in completion] == [str(number + 1), "<eos>"]
    assert len(asked[0]) == (4 if template is None else 7)
    assert sorted([*data.trained, *data.held_out]) == list(range(40)) and 2 <= len(data.held_out) <= 18
    assert (data.batch_size, data.num_rows) == (32, 3 * len(data.trained))


def test_rows_that_cannot_be_learned_from_are_named_or_left_out(tiny_model, tmp_path, capsys):
    long = {**ROWS[2], "solution": "1 + " * 8 + "1"}
    rows = [*ROWS[:2], long, *ROWS[3:9]]

    def take(max_invalid_rows: int) -> Any:
        config = make_config(tmp_path, tiny_model, rows, problems={"max_invalid_rows": max_invalid_rows})
        return take_demonstrations(config, build_tokenizer())

    line = refusal(lambda: take(0))
    assert line == (
        "problem 'p2' has 22 tokens with its demonstration and stop token, more than rollout.max_model_len = 16: raise "
        "that, or leave the row out with problems.max_invalid_rows"
    )
    data = take(1)
    assert len(data.sequences.starts) == 8
    assert "1 of 9 train rows left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "sections", "line"),
    [
        (
            [{"id": "a", "prompt": "1", "truth": 1}],
            {"problems": {"demonstration_field": None}},
            (
                "no training problem has a demonstration for [sft] to learn from: set problems.demonstration_field, or a "
                "problems.format that has one"
            ),
        ),
        (
            ROWS[:3],
            {"sft": {"held_out_share": 0.999999}},
            "sft.held_out_share = 0.999999 leaves none of 3 demonstrations to learn from: lower it, or give more",
        ),
    ],
)
def test_nothing_to_learn_from_is_one_line(rows, sections, line, tiny_model, tmp_path):
    config = make_config(tmp_path, tiny_model, rows, **sections)
    assert refusal(lambda: take_demonstrations(config, build_tokenizer())) == line


def test_what_was_made_of_other_settings_is_not_taken_for_the_same(tiny_model, tmp_path):
    config = make_config(tmp_path, tiny_model, ROWS)
    assert not base_is_there(config)
    data = take_demonstrations(config, build_tokenizer())
    made = tmp_path / "tuned"
    made.mkdir()
    (made / STAMP).write_text(json.dumps(identity_of(config, data)))
    assert base_is_there(config)
    assert base_is_there(make_config(tmp_path, tiny_model, ROWS, sft={"checkpoint_every": 7}))
    for sections, what in (
        ({"sft": {"epochs": 2.0}}, "sft.epochs = 3.0, the config says 2.0"),
        ({"learner": {"dtype": "bfloat16"}}, "learner.dtype = 'float32', the config says 'bfloat16'"),
    ):
        line = refusal(lambda s=sections: base_is_there(make_config(tmp_path, tiny_model, ROWS, **s)))
        assert what in line


def test_a_model_whose_held_out_demonstrations_were_chosen_by_id_is_kept_and_no_half_made_one_gone_on_with(
    tiny_model, tmp_path
):
    config = make_config(tmp_path, tiny_model, ROWS)
    data = take_demonstrations(config, build_tokenizer())
    wanted = identity_of(config, data)
    by_id = {name: value for name, value in wanted.items() if name != "sft.held_out_max"} | {SIDES: "others"}
    older = {name: value for name, value in by_id.items() if name != SIDES}
    made, making = tmp_path / "tuned", tmp_path / "tuned.making"
    for directory in (made, making):
        directory.mkdir()

    def make():
        make_by_fine_tuning(config, data, on_progress=print, on_note=print, should_stop=lambda: False)

    for stamp in (by_id, older):
        (made / STAMP).write_text(json.dumps(stamp))
        check_made_from(config, data)
        (made / STAMP).unlink()
        made.rmdir()
        (making / STAMP).write_text(json.dumps(stamp))
        assert f"tuned.making was made with {SIDES} = " in refusal(make)
        made.mkdir()
    (made / STAMP).write_text(json.dumps(wanted | {SIDES: "others"}))
    assert f"was made with {SIDES} = 'others'" in refusal(lambda: check_made_from(config, data))


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (None, "; the same command goes on, with a larger train.step_timeout_s where it was only slow"),
        (ActorDiedError(), "; the same command goes on"),
        (RayTaskError("train_step", "", ArithmeticError("loss is nan")), ""),
    ],
)
def test_an_error_says_that_the_same_command_goes_on_where_it_would(cause, advice):
    error = WorkerLost("learner failed")
    error.__cause__ = cause
    assert what_now(error, num_ranks=1) == advice


def test_a_countdown_model_of_an_older_version_is_still_the_same(tmp_path):
    config = parse_config({"model": str(tmp_path / "base"), "sft": {}})
    (tmp_path / "base").mkdir()
    stamp = {
        "num_demonstrations": 150_000,
        "notation": "expression",
        "corruption": 0.2,
        "seed": 0,
        "steps": 1000,
    }
    stamp |= {"schedule_steps": 1500, "batch_size": 128, "learning_rate": 2e-3, "warmup_steps": 100}
    stamp |= {"weight_decay": 0.01, "betas": [0.9, 0.98], "max_grad_norm": 1.0, "hidden_size": 96}
    stamp |= {"num_layers": 3, "num_heads": 3, "intermediate_size": 256}
    (tmp_path / "base" / STAMP).write_text(json.dumps(stamp))
    assert base_is_there(config)


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        (
            {
                "problems": {"source": "files", "train_path": "a.jsonl", "format": "gsm8k"},
                "verifier": {"reward": "math"},
                "sft": {},
            },
            (
                "config: sft.base_model is not set: without it [sft] makes a countdown model, and problems.format = 'gsm8k' "
                "has no countdown puzzles; name the model that it is to fine-tune on the problems' demonstrations"
            ),
        ),
        (
            {"sft": {"base_model": "./m"}},
            "config: model = 'm' is sft.base_model too: name another directory for what [sft] makes of it",
        ),
    ],
)
def test_a_base_and_a_place_are_wanted(sections, line):
    assert refusal(lambda: parse_config({"model": "m", **sections})) == line
