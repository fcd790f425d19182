"""Problems from configuration: what is read, what is refused, and in which words."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.shared.json_lines import write_rows
from tests.shared.paths import ROOT
from verifiers.config import VerifierConfig
from verifiers.countdown import puzzles
from verifiers.problems.config import ProblemsConfig
from verifiers.problems.invalid_rows import MAX_SHOWN
from verifiers.problems.loading import check_problems, load_problems, warn_of_shared_prompts
from verifiers.registry import resolve
from verifiers.types import Problem, Verdict


def files(path: str, **settings: Any) -> ProblemsConfig:
    return ProblemsConfig(source="files", train_path=path, **settings)


def test_countdown_splits_follow_the_configuration_and_share_no_numbers() -> None:
    config = ProblemsConfig(num_train=50, num_test=20, seed=3, num_operands=3, max_number=12, max_target=30)
    train, test = load_problems(config, "train"), load_problems(config, "test")
    assert (len(train), len(test)) == (50, 20)
    multisets = [{tuple(sorted(p.truth["numbers"])) for p in problems} for problems in (train, test)]
    assert not multisets[0] & multisets[1]
    assert not {p.id for p in train} & {p.id for p in test}
    assert all(len(p.truth["numbers"]) == 3 and 10 <= p.truth["target"] <= 30 for p in train + test)
    assert load_problems(config, "train") == train
    check_problems(train + test, VerifierConfig())


def test_countdown_defaults_are_those_of_the_study() -> None:
    config = ProblemsConfig()
    assert (config.num_train, config.num_test, config.operator_weights) == (1000, 400, (1, 1, 2, 2))
    assert load_problems(config, "test") == puzzles.generate_problems(400, 7, held_out=True)


def test_jsonl_rows_become_problems_and_the_other_fields_their_truth(tmp_path: Path) -> None:
    rows = [
        {"question": "1+1?", "answer": "2", "key": "a", "level": 3, "source": "me"},
        {"question": "{x} é\n?", "answer": 4, "key": 7, "level": "hard"},
    ]
    config = files(
        write_rows(tmp_path / "x.jsonl", rows[0], "", rows[1], "   "),
        prompt_field="question",
        id_field="key",
        difficulty_field="level",
        prompt_template="Q: {prompt} Use \\boxed{}.",
    )
    assert load_problems(config, "train") == [
        Problem(
            id="a", prompt="Q: 1+1? Use \\boxed{}.", truth={"answer": "2", "source": "me"}, difficulty="3"
        ),
        Problem(id="7", prompt="Q: {x} é\n? Use \\boxed{}.", truth={"answer": 4}, difficulty="hard"),
    ]


def test_a_demonstration_is_taken_from_training_rows_and_kept_from_every_verifier(tmp_path: Path) -> None:
    row = {"prompt": "1+1?", "answer": "2", "expert": "It is 2"}
    path = write_rows(tmp_path / "x.jsonl", row)
    config = files(path, test_path=path, demonstration_field="expert")
    (train,), (test,) = load_problems(config, "train"), load_problems(config, "test")
    assert (train.demonstration, test.demonstration) == ("It is 2", None)
    assert train.truth == test.truth == {"answer": "2"}
    (without,) = load_problems(files(path), "train")
    assert without.demonstration is None and without.truth == {"answer": "2", "expert": "It is 2"}


def test_held_out_rows_need_no_demonstration(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", {"prompt": "1+1?"})
    config = files(path, test_path=path, demonstration_field="expert")
    assert [problem.demonstration for problem in load_problems(config, "test")] == [None]


def test_jsonl_rows_without_an_id_are_known_by_file_and_line(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", {"prompt": "a"}, "", {"prompt": "b"})
    assert [p.id for p in load_problems(files(path), "train")] == ["x.jsonl:1", "x.jsonl:3"]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}')
    assert [p.prompt for p in load_problems(files(str(path)), "train")] == ["a", "b"]


@pytest.mark.parametrize("template", ["Q:", "{{prompt}}", "\\boxed{prompt}", "{ prompt }"])
def test_a_template_that_leaves_the_prompt_out_is_refused(tmp_path: Path, template: str) -> None:
    path = write_rows(tmp_path / "x.jsonl", {"prompt": "a"})
    with pytest.raises(ValueError) as error:
        load_problems(files(path, prompt_template=template), "train")
    assert str(error.value) == (
        f"problems.prompt_template = {template!r} leaves the prompt out: put {{prompt}} in it"
    )


# Order and split


def many(path: Path, num: int, **settings: Any) -> ProblemsConfig:
    return files(
        write_rows(path, *({"prompt": f"p{i}", "key": f"k{i}"} for i in range(num))),
        id_field="key",
        **settings,
    )


def test_a_seed_orders_problems_by_their_ids_alone(tmp_path: Path) -> None:
    few = [p.id for p in load_problems(many(tmp_path / "a.jsonl", 100, shuffle_seed=3), "train")]
    more = [p.id for p in load_problems(many(tmp_path / "b.jsonl", 150, shuffle_seed=3), "train")]
    other = [p.id for p in load_problems(many(tmp_path / "a.jsonl", 100, shuffle_seed=4), "train")]
    unshuffled = [f"k{i}" for i in range(100)]
    assert sorted(few) == sorted(other) == sorted(unshuffled)
    assert few != unshuffled and few != other
    assert [identity for identity in more if identity in few] == few


def test_the_order_of_a_seed_is_the_same_in_every_version(tmp_path: Path) -> None:
    """A resumed run leases problems by their place."""
    problems = load_problems(many(tmp_path / "x.jsonl", 6, shuffle_seed=0), "train")
    assert [problem.id for problem in problems] == ["k0", "k3", "k4", "k1", "k5", "k2"]


def test_a_limit_takes_the_first_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert [p.id for p in load_problems(many(path, 9, max_train=2), "train")] == ["k0", "k1"]
    shuffled = load_problems(many(path, 9, shuffle_seed=1), "train")
    assert load_problems(many(path, 9, shuffle_seed=1, max_train=4), "train") == shuffled[:4]
    held_out = load_problems(many(path, 200, test_fraction=0.2), "test")
    assert load_problems(many(path, 200, test_fraction=0.2, max_test=3), "test") == held_out[:3]


def test_a_fraction_splits_without_overlap_and_rows_added_later_move_none(tmp_path: Path) -> None:
    config = many(tmp_path / "a.jsonl", 1000, test_fraction=0.2)
    train, test = ({p.id for p in load_problems(config, split)} for split in ("train", "test"))
    assert len(train | test) == 1000 and not train & test
    assert 160 < len(test) < 240  # binomial: 12.6 standard deviation
    larger = many(tmp_path / "b.jsonl", 1500, test_fraction=0.2)
    assert {p.id for p in load_problems(larger, "train")} >= train
    assert {p.id for p in load_problems(larger, "test")} >= test


def test_a_problem_that_is_there_twice_is_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i % 50}", "n": i} for i in range(100)]
    path = write_rows(tmp_path / "x.jsonl", *rows)
    config = files(path, test_fraction=0.5, prompt_template="{n}: {prompt}")
    train, test = (
        {p.prompt.split(": ")[1] for p in load_problems(config, split)} for split in ("train", "test")
    )
    assert len(train | test) == 50 and not train & test


def test_held_out_prompts_that_are_trained_on_are_counted_and_the_first_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = load_problems(files(write_rows(tmp_path / "a.jsonl", *({"prompt": p} for p in "xyzy"))), "train")
    test_path = write_rows(tmp_path / "b.jsonl", *({"prompt": p} for p in "wyxy"))
    test = load_problems(files(test_path, test_path=test_path), "test")
    warn_of_shared_prompts(train, test)
    assert capsys.readouterr().err == (
        "bonfire: warning: 3 of 4 held-out prompts are training prompts too, so the evaluation is contaminated; the "
        "first: 'b.jsonl:2' has the prompt of 'a.jsonl:2': drop them from one side, or use problems.test_fraction\n"
    )
    warn_of_shared_prompts(train, test[:1])
    assert capsys.readouterr().err == ""


def test_held_out_problems_of_a_fraction_bring_no_demonstration(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", *({"prompt": f"p{i}", "expert": "e"} for i in range(50)))
    config = files(path, test_fraction=0.5, demonstration_field="expert")
    assert {p.demonstration for p in load_problems(config, "train")} == {"e"}
    assert {p.demonstration for p in load_problems(config, "test")} == {None}


def test_a_fraction_that_leaves_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^problems.test_fraction = 1e-09 leaves no test problem of 20 rows: "
    ):
        load_problems(many(tmp_path / "x.jsonl", 20, test_fraction=1e-9), "test")


# Rows left out


def test_rows_are_left_out_only_as_many_as_allowed_and_never_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(
        tmp_path / "x.jsonl", {"prompt": "a"}, {"prompt": ""}, {"question": "b"}, {"prompt": "c"}
    )
    assert [p.prompt for p in load_problems(files(path, max_invalid_rows=2), "train")] == ["a", "c"]
    assert capsys.readouterr().err == (
        "bonfire: 2 of 4 train rows left out (problems.max_invalid_rows = 2), the first: "
        f"{path}:2: field 'prompt' is '': make it a text that is not empty\n"
    )
    with pytest.raises(ValueError) as refused:
        load_problems(files(path, max_invalid_rows=1), "train")
    lines = str(refused.value).splitlines()
    assert lines[0].startswith(f"{path}:2: field 'prompt' is ''")
    assert lines[1].startswith(f"{path}:3: field 'prompt' is missing; it has 'question'")
    assert lines[2] == (
        "2 train rows cannot be used: correct them, or set problems.max_invalid_rows=2 to leave them out"
    )
    assert capsys.readouterr().err == ""


def test_of_very_many_invalid_rows_the_first_are_named_and_all_counted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", {"prompt": "a"}, *[{"prompt": ""}] * 50)
    with pytest.raises(ValueError) as refused:
        load_problems(files(path, max_invalid_rows=49), "train")
    lines = str(refused.value).splitlines()
    assert len(lines) == MAX_SHOWN + 2
    assert lines[-2:] == [
        f"and {50 - MAX_SHOWN} more such train rows",
        "50 train rows cannot be used: correct them, or set problems.max_invalid_rows=50 to leave them out",
    ]


def test_a_line_that_is_not_json_is_never_left_out(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", {"prompt": "a"}, "{")
    with pytest.raises(ValueError, match=":2: not JSON"):
        load_problems(files(path, max_invalid_rows=5), "train")


# What is refused

GOOD = {"prompt": "p", "key": "k"}


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (
            [GOOD, {"question": "q", "answer": "a"}],
            {},
            "{path}:2: field 'prompt' is missing; it has 'question', 'answer': set problems.prompt_field",
        ),
        ([{}], {}, "{path}:1: field 'prompt' is missing; it has no field: set problems.prompt_field"),
        (
            [{"prompt": "p"}],
            {"id_field": "key"},
            "{path}:1: field 'key' is missing; it has 'prompt': set problems.id_field",
        ),
        (
            [GOOD],
            {"difficulty_field": "d"},
            "{path}:1: field 'd' is missing; it has 'prompt', 'key': set problems.difficulty_field",
        ),
        ([{"prompt": 3}], {}, "{path}:1: field 'prompt' is 3: make it a text that is not empty"),
        ([{"prompt": ""}], {}, "{path}:1: field 'prompt' is '': make it a text that is not empty"),
        (
            [{"prompt": "p", "key": None}],
            {"id_field": "key"},
            "{path}:1: field 'key' is None: make it a text or an integer",
        ),
        (
            [GOOD, {"prompt": "q", "key": "l"}, GOOD],
            {"id_field": "key"},
            (
                "{path}:3: id 'k' was used in {path}:1 already: make it unique, "
                "or choose another problems.id_field"
            ),
        ),
        (
            [{"prompt": "p", "expert": "x"}, GOOD],
            {"demonstration_field": "expert"},
            "{path}:2: field 'expert' is missing; it has 'prompt', 'key': set problems.demonstration_field",
        ),
        (
            [{"prompt": "p", "expert": ["x", "y"]}],
            {"demonstration_field": "expert"},
            (
                "{path}:1: field 'expert' is ['x', 'y']: make it a text that is not empty, or name one that it "
                "holds, 'expert.0'"
            ),
        ),
        (
            [{"prompt": "p", "expert": ""}],
            {"demonstration_field": "expert"},
            "{path}:1: field 'expert' is '': make it a text that is not empty",
        ),
        (["", " "], {}, "problems.train_path = '{path}' holds no problems: give rows, one to a problem"),
        (["[1, 2]"], {}, "{path}:1: a list, not a JSON object: make each row one"),
    ],
)
def test_a_bad_file_is_refused_with_file_and_line(
    tmp_path: Path, rows: list[object], settings: dict[str, str], message: str
) -> None:
    path = write_rows(tmp_path / "x.jsonl", *rows)
    with pytest.raises(ValueError) as error:
        load_problems(files(path, **settings), "train")
    assert str(error.value) == message.replace("{path}", path)


@pytest.mark.parametrize("line", [b'{"prompt": "p"', b"prompt", b"[" * 100_000])
def test_a_line_that_is_not_json_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prompt": "p"}\n' + line + b"\n")
    with pytest.raises(ValueError) as error:
        load_problems(files(str(path)), "train")
    message = str(error.value)
    assert message.startswith(f"{path}:2: not JSON (") and message.endswith(
        "): put one JSON object on each line"
    )
    assert "\n" not in message


def test_a_missing_file_or_split_is_refused_in_one_line(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.jsonl")
    with pytest.raises(
        ValueError, match=r"^problems.train_path = '.*none.jsonl' cannot be read .*correct the path$"
    ):
        load_problems(files(missing), "train")
    with pytest.raises(
        ValueError, match=r"^problems.test_path is not set, .*: set it or problems.test_fraction$"
    ):
        load_problems(files(missing), "test")
    with pytest.raises(ValueError, match=r"^problems.train_split is not set, .*: set it$"):
        load_problems(ProblemsConfig(source="hub", dataset="x", test_split="test"), "train")


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (
            {"train_path": "x.jsonl"},
            ["problems.train_path = 'x.jsonl' has no effect with problems.source = 'countdown': remove it"],
        ),
        (
            {"source": "files", "train_path": "x", "seed": 7, "num_test": 3},
            [
                "problems.num_test = 3 has no effect with problems.source = 'files': remove it",
                "problems.seed = 7 has no effect with problems.source = 'files': remove it",
            ],
        ),
        ({"source": "files"}, ["problems.source = 'files' names no file: set problems.train_path"]),
        (
            {"min_target": 50, "max_target": 20},
            ["problems.min_target = 50 exceeds problems.max_target = 20: lower it"],
        ),
        (
            {"operator_weights": (0, 0, 0, 0)},
            ["problems.operator_weights = [0.0, 0.0, 0.0, 0.0] allows no operator"],
        ),
        (
            {"source": "jsonl", "train_path": "x"},
            ["problems.source = 'jsonl' is called 'files', which reads JSON and Parquet too"],
        ),
        (
            {"format": "math", "dataset": "x"},
            [
                "problems.format = 'math' has no effect with problems.source = 'countdown': remove it",
                "problems.dataset = 'x' has no effect with problems.source = 'countdown': remove it",
            ],
        ),
        (
            {"source": "hub", "train_path": ["x", "y"]},
            [
                "problems.train_path = ['x', 'y'] has no effect with problems.source = 'hub': remove it",
                "problems.source = 'hub' names no data set: set problems.dataset",
                "problems.source = 'hub' names no split: set problems.train_split, problems.test_split or both",
            ],
        ),
        (
            {"source": "files", "train_path": "x", "test_path": "y", "test_fraction": 0.1},
            [
                "problems.test_fraction = 0.1 has no effect beside problems.test_path = 'y': remove one of the two"
            ],
        ),
        (
            {"source": "hub", "dataset": "x", "test_split": "y", "max_train": 3},
            ["problems.max_train = 3 has no effect without problems.train_split: remove it"],
        ),
        (
            {"source": "files", "train_path": "x", "max_test": 3},
            [
                "problems.max_test = 3 has no effect without problems.test_path or problems.test_fraction: remove it"
            ],
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_errors(settings: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ValidationError) as error:
        ProblemsConfig(**settings)
    for message in messages:
        assert message in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"source": "files", "test_path": "x.jsonl"},
        {"source": "files", "train_path": ["x.json", "y/*.json"], "test_fraction": 0.1, "format": "math"},
        {"source": "hub", "dataset": "a/b", "train_split": "train", "truth_fields": {"answer": "final"}},
    ],
)
def test_a_dumped_configuration_can_be_read_back(settings: dict[str, Any]) -> None:
    config = ProblemsConfig(**settings)
    assert ProblemsConfig(**config.model_dump()) == config
    assert ProblemsConfig.model_validate_json(config.model_dump_json()) == config


def test_configuration_reads_from_toml_is_frozen_and_knows_no_other_keys() -> None:
    config = ProblemsConfig(**tomllib.loads("operator_weights = [1, 0, 2.5, 0]\nnum_train = 5"))
    assert config.operator_weights == (1.0, 0.0, 2.5, 0.0)
    with pytest.raises(ValidationError):
        config.seed = 8  # type: ignore[misc]
    for model in (ProblemsConfig, VerifierConfig):
        with pytest.raises(ValidationError, match="extra_forbidden"):
            model(sed=8)


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 0},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"num_cpus": -1},
        {"retries": -1},
        {"name": ""},
    ],
)
def test_verifier_settings_out_of_range_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VerifierConfig(**settings)


def test_problems_that_a_verifier_cannot_judge_are_reported_before_the_run() -> None:
    good = Problem(id="a", prompt="", truth={"numbers": [1, 2], "target": 3})
    bad = Problem(id="b", prompt="", truth={"numbers": [1, 2]})
    check_problems([good], VerifierConfig(reward="countdown"))
    with pytest.raises(ValueError, match="problem 'b': truth 'target' is None"):
        check_problems([good, bad], VerifierConfig(reward="countdown"))
    with pytest.raises(ValueError, match="problem 'a': its truth has no 'answer', which verifier"):
        check_problems([good], VerifierConfig(reward="exact_match"))
    with pytest.raises(ValueError, match="problem 'c': its truth cannot be sent to the verifier's process"):
        unsendable = Problem(id="c", prompt="", truth={"answer": "x", "y": {1}})
        check_problems([unsendable], VerifierConfig(reward="exact_match"))


def test_an_unknown_verifier_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError) as error:
        resolve("countdwn")
    assert str(error.value) == (
        "verifier 'countdwn' is unknown (did you mean countdown?): choose one of countdown, countdown_steps, exact_match, math, python_tests, reward_model, judge, format, length, or name a function "
        "or class of your own as package.module:name"
    )
    with pytest.raises(ValueError, match="cannot import 'no_such_module'"):
        resolve("no_such_module:judge")
    with pytest.raises(ValueError, match="has no function or class 'judge'"):
        resolve("json:judge")


def test_a_users_function_and_its_check_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lengths_verifier.py").write_text(
        "def judge(problem, completion):\n    return len(completion) / problem.truth['longest']\n"
        "def check_problem(problem):\n"
        "    if 'longest' not in problem.truth: raise ValueError(f'problem {problem.id!r}: no longest')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    problem = Problem(id="p", prompt="", truth={"longest": 4})
    assert resolve("lengths_verifier:judge").verify(problem, "ab") == Verdict(score=0.5, reward=0.5)
    config = VerifierConfig(reward="lengths_verifier:judge")
    check_problems([problem], config)
    with pytest.raises(ValueError, match="problem 'q': no longest"):
        check_problems([problem, Problem(id="q", prompt="")], config)


def test_our_verifiers_is_the_one_imported_and_importing_it_is_cheap() -> None:
    program = (
        "import sys, verifiers.types, verifiers.config, verifiers.problems.loading, verifiers.process.killable as p;"
        "heavy = {'ray', 'torch', 'numpy', 'vllm', 'actors', 'learner', 'cluster'} & set(sys.modules);"
        "print(p.__file__, *heavy)"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == [str(ROOT / "verifiers" / "process" / "killable.py")]
