"""A wrong setting is one line that names it, its value and the remedy; a resolved config reads back."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest
import tomli_w
from pydantic import BaseModel

import actors.config
import cluster.config.evaluation
import cluster.config.parse
import cluster.config.scaling
import cluster.config.schema
import cluster.config.tracking
import learner.config
import learner.objectives.config
import learner.supervised.config
import verifiers.config
import verifiers.math.config
import verifiers.models.judge_config
import verifiers.models.reward_model_config
import verifiers.problems.config
import verifiers.programs.config
import verifiers.shape_config
from actors.config import RolloutConfig
from cluster.config.parse import load_config, parse_config
from cluster.config.schema import RunConfig
from learner.objectives.config import ObjectiveConfig
from tests.shared.paths import ROOT
from tests.shared.refusals import refusal

EXAMPLES = sorted((ROOT / "examples").rglob("*.toml"))
CONFIG_MODULES = (
    actors.config,
    cluster.config.evaluation,
    cluster.config.scaling,
    cluster.config.schema,
    cluster.config.tracking,
    learner.config,
    learner.objectives.config,
    learner.supervised.config,
    verifiers.config,
    verifiers.math.config,
    verifiers.models.judge_config,
    verifiers.models.reward_model_config,
    verifiers.problems.config,
    verifiers.programs.config,
    verifiers.shape_config,
)
MODELS = [
    model
    for module in CONFIG_MODULES
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__ == module.__name__
]

VALID = {"model": "some/model", "evaluation": {}, "sft": {}}


def settings(**sections):
    return {**VALID, **sections}


def message(**sections):
    """What is said of these settings, which must be one line."""
    return refusal(lambda: parse_config(settings(**sections), source="run.toml"))


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(VALID))
    return path


# What is right


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_parses(path):
    assert load_config(path).model


def test_there_is_an_example():
    assert "countdown.toml" in [path.name for path in EXAMPLES]


def test_a_model_is_all_that_must_be_given():
    config = parse_config({"model": "some/model"})
    assert config.train.max_staleness == 1 and config.objective.name == "bon"
    assert config.evaluation is None and config.sft is None


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"objective": {"name": "rloo"}, "rollout": {"samples_per_prompt": 2}},
        {"objective": {"num_select": 3, "baseline_k": 7}},
        {"objective": {"num_select": 4, "baseline": "none"}, "rollout": {"samples_per_prompt": 4}},
        {
            "problems": {"source": "files", "train_path": "a.jsonl", "prompt_template": "Q: {prompt}"},
            "sft": {"base_model": "m", "steps": 5},
        },
        {"rollout": {"dtype": "bfloat16"}, "learner": {"publish_dtype": "bfloat16"}},
        {"rollout": {"num_gpus": 1}},
        {"learner": {"num_gpus": 1, "schedule": "cosine"}},
        {"learner": {"loss_normaliser": 3, "schedule": "linear", "schedule_floor": 0}},
        {"rollout": {"engine": {"enforce_eager": True, "attention_config": {"backend": "X"}}}},
        {"evaluation": {"ks": [1, 2], "samples_per_problem": 2}},
        {"rollout": {"chat": {"template": "never"}}},
        {"verifier": {"reward": "reward_model", "reward_model": {"model": "m"}}},
        {"verifier": {"reward": "reward_model", "reward_model": {"model": "m", "input": "text"}}},
        {"verifier": {"score": "judge", "judge": {"model": "m"}}},
        {"verifier": {"reward": {"math": 1.0, "format": 0.1, "length": -0.1}}},
    ],
)
def test_a_resolved_config_reads_back_as_it_was(sections):
    config = parse_config(settings(**sections))
    assert parse_config(config.model_dump()) == config
    written = tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
    assert parse_config(tomllib.loads(written)) == config


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_resolved_example_reads_back_as_it_was(path):
    config = load_config(path)
    written = tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))
    assert parse_config(tomllib.loads(written)) == config


# What follows from other settings


@pytest.mark.parametrize(
    ("rollout", "learner", "dtypes"),
    [
        ({}, {}, ("float32", "float32", "float32")),
        ({"num_gpus": 1}, {"num_gpus": 1}, ("bfloat16", "bfloat16", "bfloat16")),
        ({"num_gpus": 0.5}, {}, ("bfloat16", "float32", "bfloat16")),
        ({}, {"num_gpus": 1}, ("float32", "bfloat16", "float32")),
        ({"num_gpus": 1, "dtype": "float32"}, {"num_gpus": 1}, ("float32", "bfloat16", "float32")),
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16"}, ("bfloat16", "bfloat16", "bfloat16")),
    ],
)
def test_dtypes_follow_from_the_devices_and_what_is_published_from_the_engines(rollout, learner, dtypes):
    config = parse_config(settings(rollout=rollout, learner=learner))
    assert (config.rollout.dtype, config.learner.dtype, config.learner.publish_dtype) == dtypes


def test_the_loss_is_divided_by_the_longest_completion_where_nothing_else_is_said():
    assert parse_config(settings(rollout={"max_tokens": 300})).learner.loss_normaliser == 300
    assert parse_config(settings(learner={"loss_normaliser": 1})).learner.loss_normaliser == 1


def test_a_decay_takes_the_runs_steps_and_keeps_them_when_the_run_is_extended(tmp_path):
    config = parse_config(settings(learner={"schedule": "cosine"}, train={"steps": 200}))
    assert config.learner.schedule_steps == 200
    path = tmp_path / "settings.toml"
    path.write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    extended = load_config(path, ["train.steps=400"])
    assert (extended.train.steps, extended.learner.schedule_steps) == (400, 200)
    constant = parse_config(settings(train={"steps": 200}))
    assert constant.learner.schedule_steps is None
    assert "schedule_steps" not in constant.learner.model_dump()


def test_what_agrees_with_other_sections_follows_again_when_a_run_goes_on_with_others(tmp_path):
    path = tmp_path / "settings.toml"

    def gone_on_with(*overrides: str, **learner) -> RunConfig:
        begun = parse_config(settings(learner=learner))
        path.write_text(tomli_w.dumps(begun.model_dump(mode="json", exclude_none=True)))
        return load_config(path, overrides)

    assert gone_on_with("train.max_staleness=6").learner.parity_versions == 7
    assert gone_on_with("rollout.dtype=bfloat16").learner.publish_dtype == "bfloat16"
    assert gone_on_with("rollout.max_tokens=40").learner.loss_normaliser == RolloutConfig().max_tokens
    assert gone_on_with("train.max_staleness=3", parity_versions=5).learner.parity_versions == 5
    with pytest.raises(
        ValueError, match=r"learner\.parity_versions = 5 must exceed train\.max_staleness = 6"
    ):
        gone_on_with("train.max_staleness=6", parity_versions=5)


def test_a_default_that_cannot_be_found_is_no_fault_of_its_own():
    assert message(rollout={"num_gpus": -1}).startswith("run.toml: rollout.num_gpus = -1: ")


# What is wrong


@pytest.mark.parametrize(
    ("sections", "path", "suggestion"),
    [
        ({"rollout": {"max_tokns": 3}}, "rollout.max_tokns", "rollout.max_tokens"),
        ({"objective": {"num_selct": 3}}, "objective.num_selct", "objective.num_select"),
        ({"evaluation": {"k": [1]}}, "evaluation.k", "evaluation.ks"),
        ({"sft": {"stepz": 3}}, "sft.stepz", "sft.steps"),
        ({"rolout": {"workers": 3}}, "rolout", "rollout"),
    ],
)
def test_a_typo_is_named_by_its_dotted_path_with_the_setting_that_was_meant(sections, path, suggestion):
    assert message(**sections) == (
        f"run.toml: {path} is not a setting (did you mean {suggestion}?); remove it or see `bonfire settings`"
    )


def test_an_unknown_setting_like_no_other_gets_no_suggestion():
    assert message(train={"xyzzy": 1}) == (
        "run.toml: train.xyzzy is not a setting; remove it or see `bonfire settings`"
    )


@pytest.mark.parametrize("role", ["rollout", "verifier", "learner"])
def test_cpus_and_gpus_are_no_custom_resources(role):
    assert message(**{role: {"resources": {"GPU": 2}}}) == (
        f"run.toml: {role}.resources.GPU = 2 is no custom resource: set num_gpus"
    )


def test_a_missing_model_says_how_to_give_it():
    with pytest.raises(ValueError) as error:
        parse_config({}, source="run.toml")
    assert str(error.value) == (
        "run.toml: model is missing: set it in the file or give model=... on the command line"
    )


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"rollout": {"workers": "two"}}, "rollout.workers = 'two': input should be a valid integer"),
        ({"rollout": {"workers": 1.5}}, "rollout.workers = 1.5: input should be a valid integer"),
        ({"rollout": {"prefix_caching": "maybe"}}, "rollout.prefix_caching = 'maybe': input should be"),
        ({"rollout": 3}, "rollout = 3 is a section, not a setting: give its settings"),
        ({"evaluation": {"ks": 3}}, "evaluation.ks = 3: input should be a valid tuple"),
        ({"run_dir": 5}, "run_dir = 5: input should be a valid string"),
        (
            {"objective": {"name": "bonn"}},
            "objective.name = 'bonn': input should be 'bon', 'pass_at_k', 'max_at_k'",
        ),
        (
            {"rollout": {"dtype": "float16"}},
            "rollout.dtype = 'float16': input should be 'float32' or 'bfloat16'",
        ),
    ],
)
def test_a_wrong_type_is_named_with_its_value_and_what_is_valid(sections, expected):
    assert message(**sections).startswith(f"run.toml: {expected}")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"rollout": {"workers": 0}}, "rollout.workers = 0: input should be greater than or equal to 1"),
        ({"rollout": {"temperature": 0.0}}, "rollout.temperature = 0.0: input should be greater than or equal to 0.01"),
        ({"train": {"max_staleness": -1}}, "train.max_staleness = -1: input should be greater than or equal to 0"),
        ({"metrics": {"port": 70000}}, "metrics.port = 70000: input should be less than or equal to 65535"),
        ({"sft": {"corruption": 1.5}}, "sft.corruption = 1.5: input should be less than or equal to 1"),
        ({"learner": {"ranks": 0}}, "learner.ranks = 0: input should be greater than or equal to 1"),
        (
            {"learner": {"learning_rate": float("nan")}},
            "learner.learning_rate = nan: input should be a finite number",
        ),
        (
            {"learner": {"max_grad_norm": float("inf")}},
            "learner.max_grad_norm = inf: input should be a finite number: give a large one, such as 1e9, for a limit "
            + "that is never to be reached",
        ),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named_with_the_range(sections, expected):
    assert message(**sections) == f"run.toml: {expected}"


def test_ranks_that_would_share_a_gpu_are_refused():
    assert "num_gpus = 0.5 with ranks = 2: NCCL wants a GPU of its own" in message(
        learner={"ranks": 2, "num_gpus": 0.5}
    )
    assert parse_config(settings(learner={"ranks": 2, "num_gpus": 1})).learner.num_gpus == 1


def test_gpus_that_a_rank_would_leave_idle_are_refused():
    assert "num_gpus = 2: a rank computes on one GPU; set num_gpus = 1 and ranks = 4" in message(
        learner={"ranks": 2, "num_gpus": 2}
    )


@pytest.mark.parametrize(
    ("objective", "samples_per_prompt", "needed"),
    [
        ({"num_select": 16}, 15, 16),
        ({"num_select": 16, "baseline": "loo"}, 16, 17),
        ({"num_select": 4, "baseline_k": 9}, 9, 10),
    ],
)
def test_fewer_samples_than_the_objective_selects_among_are_refused(objective, samples_per_prompt, needed):
    text = message(objective=objective, rollout={"samples_per_prompt": samples_per_prompt})
    assert text == (
        f"run.toml: rollout.samples_per_prompt = {samples_per_prompt} is too few: objective.num_select = "
        f"{objective['num_select']} with its baseline has an unbiased gradient only from {needed} samples on; "
        "raise the first or lower the second"
    )
    parse_config(settings(objective=objective, rollout={"samples_per_prompt": needed}))


def test_a_schedule_needs_the_samples_of_its_largest_number():
    schedule = {"from": 4, "to": 12, "over": 10}
    text = message(objective={"num_select": schedule}, rollout={"samples_per_prompt": 11})
    assert "rollout.samples_per_prompt = 11 is too few: objective.num_select = 12 with its baseline" in text
    config = parse_config(settings(objective={"num_select": schedule}, rollout={"samples_per_prompt": 12}))
    assert parse_config(tomllib.loads(tomli_w.dumps(config.model_dump(exclude_none=True)))) == config


def test_a_schedule_on_the_command_line_is_one_setting():
    demo = ROOT / "examples" / "countdown.toml"
    config = load_config(demo, ["objective.num_select={ from = 16, to = 1, over = 200 }"])
    assert [config.objective.at(step).num_select for step in (0, 100, 200)] == [16, 8, 1]
    with pytest.raises(
        ValueError, match=r"^command line: objective.num_select = from = 0 is not a positive integer"
    ):
        load_config(demo, ["objective.num_select={ from = 0, to = 1, over = 200 }"])


def test_a_vote_without_answers_to_count_is_refused():
    vote = {"name": "majority", "num_select": 4}
    text = message(objective=vote, verifier={"reward": {"format": 1.0, "length": 0.5}})
    assert text == (
        "run.toml: objective.name = 'majority' counts answers, and verifier 'format' + 'length' names none: use one of "
        "countdown, countdown_steps, exact_match, math, python_tests, or a function of your own whose Verdict has an "
        "answer, or choose another objective"
    )
    for reward in ("math", {"format": 0.1, "math": 1.0}, "mine.judging:verify"):
        parse_config(settings(objective=vote, verifier={"reward": reward}))


def test_held_out_problems_that_nothing_evaluates_are_refused():
    problems = {"source": "files", "train_path": "a.jsonl", "test_path": "b.jsonl"}
    with pytest.raises(ValueError) as error:
        parse_config({"model": "m", "problems": problems}, source="run.toml")
    assert str(error.value) == (
        "run.toml: problems.test_path = 'b.jsonl' has no effect without an [evaluation] section: "
        "add one, or remove it"
    )
    parse_config({"model": "m", "problems": problems, "evaluation": {}})


def test_a_single_sample_is_too_few_for_rloo():
    text = message(objective={"name": "rloo"}, rollout={"samples_per_prompt": 1})
    assert text.startswith("run.toml: rollout.samples_per_prompt = 1 is too few: objective.name = 'rloo' has")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"objective": {"name": "rloo", "baseline": "loo"}},
            "objective.baseline = 'loo' has no effect on the objective 'rloo': remove it or set name = 'bon'",
        ),
        (
            {"objective": {"baseline": "loo", "baseline_k": 3}},
            "objective.baseline = 'loo' has no effect when baseline_k = 3 is set: remove one of the two",
        ),
        (
            {"learner": {"schedule_steps": 5}},
            "learner.schedule_steps = 5 has no effect with schedule = 'constant': remove it or set schedule = 'cosine'",
        ),
        (
            {"problems": {"train_path": "a.jsonl"}},
            "problems.train_path = 'a.jsonl' has no effect with problems.source = 'countdown': remove it",
        ),
        (
            {"problems": {"source": "files", "train_path": "a.jsonl", "num_train": 5}},
            "problems.num_train = 5 has no effect with problems.source = 'files': remove it",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(sections, expected):
    assert message(**sections) == f"run.toml: {expected}"


@pytest.mark.parametrize(("rollout", "published"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_engines_hold_the_dtype_that_is_published(rollout, published):
    text = message(rollout={"dtype": rollout}, learner={"publish_dtype": published})
    assert text == (
        f"run.toml: learner.publish_dtype = {published!r} differs from rollout.dtype = {rollout!r}: "
        "the engines must hold exactly what is published; leave the first out"
    )


@pytest.mark.parametrize("max_tokens", [64, 65])
def test_a_completion_must_leave_room_for_a_prompt(max_tokens):
    text = message(rollout={"max_tokens": max_tokens, "max_model_len": 64})
    assert text == (
        f"run.toml: rollout.max_tokens = {max_tokens} leaves no room for a prompt in "
        "rollout.max_model_len = 64: lower the first or raise the second"
    )


@pytest.mark.parametrize("ks", [[1, 65], [0, 1], []])
def test_pass_at_k_is_not_asked_of_fewer_than_k_samples(ks):
    assert message(evaluation={"ks": ks}) == (
        f"run.toml: evaluation.ks = {ks} must lie in 1..samples_per_problem = 64: "
        "pass@k cannot be estimated from fewer than k samples"
    )


def test_an_evaluation_while_it_trains_has_16_samples_of_a_problem_or_all_there_are():
    drawn = {n: parse_config(settings(evaluation={"samples_per_problem": n})) for n in (64, 16, 5)}
    assert [config.evaluation.during_samples for config in drawn.values()] == [16, 16, 5]
    config = parse_config(settings(evaluation={"every": 25}, train={"keep_best": "majority@10"}))
    assert config.during_ks == (1, 4, 8, 10, 16) and config.during_shown == ("pass@1", "majority@10")
    assert drawn[64].during_ks == ()
    assert parse_config(settings(evaluation={"every": 25})).during_shown == ("pass@1", "pass@16")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"evaluation": {"samples_per_problem": 16, "during_samples": 17}},
            "evaluation.during_samples = 17 exceeds samples_per_problem = 16: lower the first or raise the second",
        ),
        (
            {"train": {"keep_best": "pass@16"}, "evaluation": {}},
            "train.keep_best = 'pass@16' needs evaluations while it trains: set evaluation.every, such as 25, or remove it",
        ),
        (
            {"train": {"keep_best": "best_of@17"}, "evaluation": {"every": 5}},
            (
                "train.keep_best = 'best_of@17' cannot be estimated from evaluation.during_samples = 16: raise that to 17 or "
                "more, or choose a smaller k"
            ),
        ),
        (
            {"train": {"keep_best": "pass@0"}, "evaluation": {"every": 5}},
            (
                "train.keep_best = 'pass@0' is none of 'pass@K', 'best_of@K', 'majority@K' and 'reward': give one of them, such "
                "as 'pass@16'"
            ),
        ),
        (
            {"train": {"stop_when_worse_for": 3}, "evaluation": {"every": 5}},
            "train.stop_when_worse_for = 3 has nothing to go by: set train.keep_best, such as 'pass@16', or remove it",
        ),
    ],
)
def test_what_evaluations_while_it_trains_cannot_say_is_refused(sections, expected):
    assert message(**sections) == f"run.toml: {expected}"


@pytest.mark.parametrize("keep_best", ["pass@16", "best_of@1", "majority@8", "reward"])
def test_the_best_checkpoint_goes_by_any_estimate_that_there_is(keep_best):
    config = parse_config(
        settings(evaluation={"every": 5}, train={"keep_best": keep_best, "stop_when_worse_for": 1})
    )
    assert config.train.keep_best == keep_best


def test_every_fault_has_a_line_of_its_own():
    problems = {"source": "files", "num_train": 5, "seed": 3}
    with pytest.raises(ValueError) as error:
        parse_config(settings(problems=problems, rollout={"workers": 0}), source="run.toml")
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert [line.split(" = ")[0] for line in lines] == [
        "run.toml: problems.num_train",
        "run.toml: problems.seed",
        "run.toml: problems.source",
        "run.toml: rollout.workers",
    ]


def test_a_config_that_cannot_be_read_is_one_line(tmp_path):
    for path, content, expected in (
        (tmp_path / "none.toml", None, f"config {tmp_path}/none.toml does not exist: see examples/"),
        (tmp_path, None, f"config {tmp_path} cannot be read (Is a directory): give a TOML file"),
        (tmp_path / "a.toml", b"model = ", f"config {tmp_path}/a.toml is not valid TOML: "),
        (tmp_path / "b.toml", b"\xff\xfe", f"config {tmp_path}/b.toml is not valid TOML: "),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            load_config(path)
        assert str(error.value).startswith(expected) and "\n" not in str(error.value)


# Overrides


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("rollout.workers=3", lambda c: c.rollout.workers, 3),
        ("rollout.temperature=0.7", lambda c: c.rollout.temperature, 0.7),
        ("learner.learning_rate=3e-5", lambda c: c.learner.learning_rate, 3e-5),
        ("rollout.prefix_caching=false", lambda c: c.rollout.prefix_caching, False),
        ("evaluation.ks=[1, 2, 64]", lambda c: c.evaluation.ks, (1, 2, 64)),
        ("model=runs/countdown-base", lambda c: c.model, "runs/countdown-base"),
        ('model="runs/a=b"', lambda c: c.model, "runs/a=b"),
        ("model=runs/a=b", lambda c: c.model, "runs/a=b"),
        ('run_dir="5"', lambda c: c.run_dir, "5"),
        ("objective.name=rloo", lambda c: c.objective.name, "rloo"),
        ("rollout = {workers = 2}", lambda c: c.rollout.workers, 2),
        (" train.steps = 7", lambda c: c.train.steps, 7),
    ],
)
def test_an_override_sets_one_setting(config_file, override, read, value):
    config = load_config(config_file, [override])
    assert read(config) == value and type(read(config)) is type(value)
    assert read(load_config(config_file)) != value


def test_the_last_override_wins_and_the_files_other_settings_stay(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('model = "m"\n[train]\nsteps = 5\nseed = 9\n')
    config = load_config(path, ["train.steps=6", "train.steps=7"])
    assert (config.train.steps, config.train.seed) == (7, 9)


@pytest.mark.parametrize("override", ["train.steps", "=3", "train..steps=3", ".steps=3", "train.=3", ""])
def test_an_override_of_another_form_is_refused(config_file, override):
    with pytest.raises(ValueError) as error:
        load_config(config_file, [override])
    assert str(error.value) == f"override {override!r} is not of the form key.path=value"


def test_an_override_below_a_setting_is_refused(config_file):
    with pytest.raises(ValueError) as error:
        load_config(config_file, ["model.name=x"])
    assert str(error.value) == "override 'model.name=x': 'model' is a setting, not a section"


@pytest.mark.parametrize("value", ["none", '"none"'])
def test_an_override_leaves_out_a_section_that_may_be_left_out(tmp_path, value):
    file = tmp_path / "run.toml"
    file.write_text('model = "m"\n[learner.lora]\nrank = 8\n[evaluation]\nsamples_per_problem = 32\n')
    assert load_config(file).learner.lora is not None
    config = load_config(file, [f"learner.lora={value}", f"evaluation={value}", f"scaling={value}"])
    assert (config.learner.lora, config.evaluation, config.scaling) == (None, None, None)
    with pytest.raises(
        ValueError, match="^command line: train = 'none' is a section, not a setting: give its settings$"
    ):
        load_config(file, [f"train={value}"])


def test_an_override_is_checked_like_the_file(config_file):
    with pytest.raises(
        ValueError, match=r"command line: rollout\.workers = 'two': input should be a valid integer"
    ):
        load_config(config_file, ["rollout.workers=two"])
    with pytest.raises(ValueError, match=r"train\.step is not a setting \(did you mean train\.steps\?\)"):
        load_config(config_file, ["train.step=3"])


def test_a_fault_is_blamed_on_where_it_was_set(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('model = "m"\n[rollout]\nworkers = 0\n[train]\nsteps = 4\n')
    with pytest.raises(ValueError) as error:
        load_config(path, ["train.steps=0", "objective.name=bonn"])
    assert [line.split(" = ")[0] for line in str(error.value).splitlines()] == [
        f"{path}: rollout.workers",
        "command line: objective.name",
        "command line: train.steps",
    ]
    assert str(error.value).splitlines()[1].endswith("(did you mean bon?)")


def test_an_override_of_the_objective_leaves_out_what_the_file_sets_for_its_own():
    demo = ROOT / "examples/countdown.toml"
    assert load_config(demo).objective.num_select == 16
    assert load_config(demo, ["objective.name=rloo"]).objective == ObjectiveConfig(name="rloo")
    kept = load_config(demo, ["objective.name='bon_rlb'", "objective.max_weight=4"]).objective
    assert kept == ObjectiveConfig(name="bon_rlb", num_select=16, max_weight=4.0)
    with pytest.raises(ValueError, match="num_select = 8 has no effect on the objective 'rloo'"):
        load_config(demo, ["objective.name=rloo", "objective.num_select=8"])


def test_an_override_without_ranks_leaves_out_how_many_base_samples_the_file_asks_for(tmp_path):
    path = tmp_path / "ranks.toml"
    path.write_text('model = "m"\n[objective]\nscore_transform = "rank_vs_base"\nbase_samples = 8\n')
    assert load_config(path).objective.base_samples == 8
    plain = load_config(path, ["objective.score_transform=none"]).objective
    assert plain == ObjectiveConfig(score_transform="none") and not plain.needs_base_scores


def test_an_override_of_the_source_leaves_out_what_the_file_sets_for_its_own():
    example = ROOT / "examples/gsm8k_cpu.toml"
    files = ["problems.source=files", "problems.train_path=a.jsonl", "problems.test_path=b.jsonl"]
    ours, theirs = load_config(example, files).problems, load_config(example).problems
    assert theirs.dataset == "openai/gsm8k" and ours.dataset is None
    assert (ours.source, ours.train_path, ours.test_path) == ("files", ("a.jsonl",), ("b.jsonl",))
    assert ours.format == theirs.format == "gsm8k" and ours.max_test == theirs.max_test
    with pytest.raises(
        ValueError, match="problems.subset = 'main' has no effect with problems.source = 'files'"
    ):
        load_config(example, [*files, "problems.subset=main"])


# The models themselves


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_setting_is_described_and_every_model_refuses_the_unknown(model):
    assert model.__doc__
    assert model.model_config["extra"] == "forbid" and model.model_config["frozen"]
    for name, field in model.model_fields.items():
        section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        assert section or field.description, f"{model.__name__}.{name} has no description"


def test_all_sections_of_a_run_are_among_the_models_checked():
    sections = [RunConfig]
    for section in sections:
        annotations = [field.annotation for field in section.model_fields.values()]
        classes = {
            c for annotation in annotations for c in (annotation, *getattr(annotation, "__args__", ()))
        }
        sections += [c for c in classes if isinstance(c, type) and issubclass(c, BaseModel)]
    assert set(sections) == set(MODELS)


def test_configs_are_read_without_torch_ray_or_vllm():
    names = [module.__name__ for module in CONFIG_MODULES]
    code = (
        f"import sys, {', '.join(names)}\n"
        "from cluster.config import parse; parse.load_config(parse.Path(sys.argv[1]))\n"
        "print(sorted({'torch', 'ray', 'vllm', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLES[0])], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# Adapters


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"rank": 0}, "learner.lora.rank = 0: input should be greater than or equal to 1"),
        ({"alpha": 0.0}, "learner.lora.alpha = 0.0: input should be greater than 0"),
        ({"dropout": 0.1}, "learner.lora.dropout = 0.1: engines sample without it"),
        ({"target": []}, "learner.lora.target = []: "),
        ({"target": ["q_proj", "q_proj"]}, "target = ['q_proj', 'q_proj'] names a layer twice"),
        ({"alpha": 1e9}, "learner.lora.alpha = 1000000000.0: input should be less than or equal to 100000"),
        (False, "learner.lora = False is a section, not a setting: give its settings, or learner.lora=none"),
        (
            {"target": ["all-linear", "q_proj"]},
            "learner.lora.target = ['all-linear', 'q_proj']: 'all-linear' is all",
        ),
        ({"ranks": 4}, "learner.lora.ranks is not a setting (did you mean learner.lora.rank?)"),
    ],
    ids=str,
)
def test_adapters_that_cannot_be_are_refused_in_one_line(lora, words):
    assert words in message(learner={"lora": lora})


def test_a_section_of_adapters_may_be_empty_and_is_written_only_where_it_is_given():
    assert parse_config(settings(learner={"lora": {}})).learner.lora.target == ("all-linear",)
    one = parse_config(settings(learner={"lora": {"target": "q_proj", "rank": 8}}))
    written = one.model_dump(mode="json", exclude_none=True)
    # As checkpoints have it that know of no `publish`.
    assert written["learner"]["lora"] == {"rank": 8, "alpha": 32.0, "target": ["q_proj"], "dropout": 0.0}
    assert parse_config(written) == one
    assert "lora" not in parse_config(settings()).model_dump(mode="json")["learner"]
