"""Numbers in settings: what passes the check of its setting breaks nothing later."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import tomli_w
from pydantic import BaseModel, TypeAdapter, ValidationError

from cluster.config.parse import parse_config, section_of
from cluster.config.schema import RunConfig
from learner.verifier.config import VerifierTrainingConfig
from tests.shared.refusals import refusal


def numbers(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting that a float may be given to, nested sections included, with its field."""
    for name, field in model.model_fields.items():
        if (section := section_of(field.annotation)) is not None:
            yield from numbers(section, f"{prefix}{name}.")
        elif "float" in str(field.annotation):
            yield f"{prefix}{name}", field


SETTINGS = [*numbers(RunConfig), *numbers(VerifierTrainingConfig, "train-verifier.")]


def test_the_walk_finds_the_settings_of_all_sections() -> None:
    found = {name for name, _ in SETTINGS}
    assert len(found) > 45
    assert {
        "learner.max_grad_norm",
        "learner.betas",
        "verifier.reward",
        "rollout.chat.arguments",
        "verifier.judge.temperature",
        "scaling.queue_above",
        "evaluation.temperatures",
        "problems.operator_weights",
        "train-verifier.label_threshold",
    } <= found


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e300])
@pytest.mark.parametrize(("name", "field"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_no_setting_takes_a_number_that_is_not_finite_or_out_of_all_bounds(
    name: str, field: Any, value: float
) -> None:
    kind = field.annotation
    shapes = [value, [value], [value] * 2, [value] * 4, {"a": value}]
    metadata = field.metadata
    from typing import Annotated

    adapter = TypeAdapter(Annotated[(kind, *metadata)] if metadata else kind)
    for shape in shapes:
        with pytest.raises(ValidationError):
            adapter.validate_python(shape)
    assert get_args(kind) or kind is float


def parse(**settings: Any) -> RunConfig:
    return parse_config({"model": "m", **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learner": {"max_grad_norm": math.inf}}, "learner.max_grad_norm = inf: input should be "),
        ({"learner": {"betas": [0.9, 2.0]}}, "learner.betas.1 = 2.0: input should be less than 1"),
        (
            {"learner": {"eps": 1e-300}},
            "learner.eps = 1e-300: input should be greater than or equal to 0.000000000001",
        ),
        (
            {"learner": {"learning_rate": 1e300}},
            "learner.learning_rate = 1e+300 is out of all bounds: give at most 10",
        ),
        (
            {"learner": {"loss_normaliser": 1e-300}},
            "learner.loss_normaliser = 1e-300: input should be greater than",
        ),
        ({"rollout": {"temperature": math.inf}}, "rollout.temperature = inf: input should be "),
        (
            {"rollout": {"temperature": 1e-300}},
            "rollout.temperature = 1e-300: input should be greater than or equal",
        ),
        (
            {"rollout": {"num_cpus": 1.5}},
            "rollout.num_cpus = 1.5: Ray reserves whole ones above 1: set 1 or 2",
        ),
        (
            {"learner": {"num_gpus": 0.00001}},
            "learner.num_gpus = 1e-05 is less than 0.0001, the smallest share",
        ),
        (
            {"rollout": {"group_timeout_s": 1e9}},
            "rollout.group_timeout_s = 1000000000.0 is out of all bounds: give at most 1e+06",
        ),
        (
            {"rollout": {"engine": {"a": {"b": [1, math.nan]}}}},
            "rollout.engine.a.b.1 = nan is not finite: give a large",
        ),
        (
            {"verifier": {"reward": "m:f", "options": {"m:f": {"limit": math.inf}}}},
            "verifier.options.'m:f': limit = inf is not finite: give a large number, or leave it out",
        ),
        (
            {"sft": {"num_heads": 5}},
            "sft.hidden_size = 96 is not a multiple of num_heads = 5: change one of them",
        ),
        ({"metrics": {"host": "äöx" * 20}}, "metrics.host = 'äöxäöx"),
        ({"metrics": {"host": "a" * 64}}, "metrics.host = 'aaa"),
        (
            {"metrics": {"host": "a b"}},
            "metrics.host = 'a b' is no name of a host: give an address of this machine",
        ),
        ({"metrics": {"host": "a\0"}}, "metrics.host = 'a\\x00' is no name of a host"),
        (
            {"problems": {"num_train": 10**9}},
            "problems.num_train = 1000000000 is more puzzles than can be had: there are at most 275,400 with these numbers",
        ),
        (
            {"problems": {"num_test": 10**9, "num_operands": 8, "max_number": 999}},
            "problems.num_test = 1000000000 is more puzzles than can be had: 1,000,000 are generated at most",
        ),
    ],
)
def test_a_value_that_would_break_later_is_one_line_at_once(settings: dict[str, Any], message: str) -> None:
    assert refusal(lambda: parse(**settings)).startswith(f"config: {message}")


def test_what_is_accepted_can_be_written_as_toml_and_json_and_read_back() -> None:
    config = parse(
        learner={"max_grad_norm": 1e9, "betas": [0, 0.999], "weight_decay": 1000},
        rollout={
            "temperature": 0.01,
            "num_cpus": 0.5,
            "startup_timeout_s": 1e6,
            "chat": {"arguments": {"x": 0.5}},
        },
        metrics={"host": "münchen.example"},
    )
    dumped = config.model_dump(mode="json", exclude_none=True)
    assert tomllib.loads(tomli_w.dumps(dumped)) == dumped
    assert RunConfig.model_validate(json.loads(json.dumps(dumped))) == config


def test_few_samples_alone_leave_out_the_ks_that_they_do_not_reach() -> None:
    for samples, ks in [(4, (1, 4)), (64, (1, 4, 8, 16, 32)), (1, (1,))]:
        evaluation = parse(evaluation={"samples_per_problem": samples}).evaluation
        assert evaluation is not None and evaluation.ks == ks
    assert refusal(lambda: parse(evaluation={"samples_per_problem": 0})).startswith(
        "config: evaluation.samples_per_problem = 0: input should be"
    )
