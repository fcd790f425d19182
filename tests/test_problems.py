"""Problems from configuration: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from verifiers import countdown
from verifiers.config import VerifierConfig
from verifiers.problems import check_problems, load_problems
from verifiers.problems_config import ProblemsConfig
from verifiers.registry import VERIFIERS, resolve
from verifiers.types import Problem, Verdict

ROOT = Path(__file__).resolve().parent.parent


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def jsonl(path: str, **settings: Any) -> ProblemsConfig:
    return ProblemsConfig(source="jsonl", train_path=path, **settings)


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
    assert load_problems(config, "test") == countdown.generate_problems(400, 7, held_out=True)


def test_jsonl_rows_become_problems_and_the_other_fields_their_truth(tmp_path: Path) -> None:
    rows = [
        {"question": "1+1?", "answer": "2", "key": "a", "level": 3, "source": "me"},
        {"question": "{x} é\n?", "answer": 4, "key": 7, "level": "hard"},
    ]
    config = jsonl(
        write(tmp_path / "x.jsonl", rows[0], "", rows[1], "   "),
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
    path = write(tmp_path / "x.jsonl", row)
    config = jsonl(path, test_path=path, demonstration_field="expert")
    (train,), (test,) = load_problems(config, "train"), load_problems(config, "test")
    assert (train.demonstration, test.demonstration) == ("It is 2", None)
    assert train.truth == test.truth == {"answer": "2"}
    (without,) = load_problems(jsonl(path), "train")
    assert without.demonstration is None and without.truth == {"answer": "2", "expert": "It is 2"}


def test_held_out_rows_need_no_demonstration(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"prompt": "1+1?"})
    config = jsonl(path, test_path=path, demonstration_field="expert")
    assert [problem.demonstration for problem in load_problems(config, "test")] == [None]


def test_jsonl_rows_without_an_id_are_known_by_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"prompt": "a"}, "", {"prompt": "b"})
    assert [p.id for p in load_problems(jsonl(path), "train")] == ["x.jsonl:1", "x.jsonl:3"]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}')
    assert [p.prompt for p in load_problems(jsonl(str(path)), "train")] == ["a", "b"]


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
                "{path}:3: id 'k' was used on line 1 already: make it unique, "
                "or choose another problems.id_field"
            ),
        ),
        (
            [{"prompt": "p", "expert": "x"}, GOOD],
            {"demonstration_field": "expert"},
            "{path}:2: field 'expert' is missing; it has 'prompt', 'key': set problems.demonstration_field",
        ),
        (
            [{"prompt": "p", "expert": ["x"]}],
            {"demonstration_field": "expert"},
            "{path}:1: field 'expert' is ['x']: make it a text that is not empty",
        ),
        (
            [{"prompt": "p", "expert": ""}],
            {"demonstration_field": "expert"},
            "{path}:1: field 'expert' is '': make it a text that is not empty",
        ),
        (["", " "], {}, "problems.train_path = '{path}' holds no problems: put one JSON object on each line"),
        (["[1, 2]"], {}, "{path}:1: a list, not a JSON object: put one on each line"),
    ],
)
def test_a_bad_file_is_refused_with_file_and_line(
    tmp_path: Path, rows: list[object], settings: dict[str, str], message: str
) -> None:
    path = write(tmp_path / "x.jsonl", *rows)
    with pytest.raises(ValueError) as error:
        load_problems(jsonl(path, **settings), "train")
    assert str(error.value) == message.replace("{path}", path)


@pytest.mark.parametrize("line", [b'{"prompt": "p"', b"prompt", b'{"prompt": "\xff"}', b"[" * 100_000])
def test_a_line_that_is_not_json_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prompt": "p"}\n' + line + b"\n")
    with pytest.raises(ValueError) as error:
        load_problems(jsonl(str(path)), "train")
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
        load_problems(jsonl(missing), "train")
    with pytest.raises(ValueError, match=r"^problems.test_path is not set.*: set it to a file$"):
        load_problems(jsonl(missing), "test")
    with pytest.raises(ValueError, match=r"^problems.train_path = .* cannot be read \(Is a directory"):
        load_problems(jsonl(str(tmp_path)), "train")


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (
            {"train_path": "x.jsonl"},
            ["problems.train_path = 'x.jsonl' has no effect with problems.source = 'countdown': remove it"],
        ),
        (
            {"source": "jsonl", "train_path": "x", "seed": 7, "num_test": 3},
            [
                "problems.num_test = 3 has no effect with problems.source = 'jsonl': remove it",
                "problems.seed = 7 has no effect with problems.source = 'jsonl': remove it",
            ],
        ),
        ({"source": "jsonl"}, ["problems.source = 'jsonl' names no file: set problems.train_path"]),
        (
            {"min_target": 50, "max_target": 20},
            ["problems.min_target = 50 exceeds problems.max_target = 20: lower it"],
        ),
        (
            {"operator_weights": (0, 0, 0, 0)},
            ["problems.operator_weights = [0.0, 0.0, 0.0, 0.0] allows no operator"],
        ),
        (
            {"source": "jsonl", "train_path": "x", "prompt_template": "Q:"},
            ["problems.prompt_template = 'Q:' leaves the prompt out: put {prompt} in it"],
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_errors(settings: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ValidationError) as error:
        ProblemsConfig(**settings)
    for message in messages:
        assert message in str(error.value)


@pytest.mark.parametrize("settings", [{}, {"source": "jsonl", "test_path": "x.jsonl"}])
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


def test_every_setting_is_described() -> None:
    for model in (ProblemsConfig, VerifierConfig):
        for name, field in model.model_fields.items():
            assert field.description, name


def test_problems_that_a_verifier_cannot_judge_are_reported_before_the_run() -> None:
    good = Problem(id="a", prompt="", truth={"numbers": [1, 2], "target": 3})
    bad = Problem(id="b", prompt="", truth={"numbers": [1, 2]})
    check_problems([good], VerifierConfig(name="countdown"))
    with pytest.raises(ValueError, match="problem 'b': truth 'target' is None"):
        check_problems([good, bad], VerifierConfig(name="countdown"))
    with pytest.raises(ValueError, match="problem 'a': truth 'answer' is None"):
        check_problems([good], VerifierConfig(name="exact_match"))
    with pytest.raises(ValueError, match="problem 'c': its truth cannot be sent to the verifier's process"):
        unsendable = Problem(id="c", prompt="", truth={"answer": "x", "y": {1}})
        check_problems([unsendable], VerifierConfig(name="exact_match"))


def test_an_unknown_verifier_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError) as error:
        resolve("countdwn")
    assert str(error.value) == (
        "verifier.name = 'countdwn' is unknown: choose one of countdown, exact_match, or name a function of "
        "your own as package.module:function"
    )
    with pytest.raises(ValueError, match="cannot import 'no_such_module'"):
        resolve("no_such_module:judge")
    with pytest.raises(ValueError, match="has no function 'judge'"):
        resolve("json:judge")
    assert set(VERIFIERS) == {"countdown", "exact_match"}


def test_a_users_function_and_its_check_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lengths_verifier.py").write_text(
        "def judge(problem, completion):\n    return len(completion) / problem.truth['longest']\n"
        "def check_problem(problem):\n"
        "    if 'longest' not in problem.truth: raise ValueError(f'problem {problem.id!r}: no longest')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    problem = Problem(id="p", prompt="", truth={"longest": 4})
    assert resolve("lengths_verifier:judge").verify(problem, "ab") == Verdict(score=0.5, reward=0.5)
    config = VerifierConfig(name="lengths_verifier:judge")
    check_problems([problem], config)
    with pytest.raises(ValueError, match="problem 'q': no longest"):
        check_problems([problem, Problem(id="q", prompt="")], config)


def test_our_verifiers_is_the_one_imported_and_importing_it_is_cheap() -> None:
    program = (
        "import sys, verifiers.types, verifiers.config, verifiers.problems, verifiers.process as p;"
        "heavy = {'ray', 'torch', 'numpy', 'vllm', 'actors', 'learner', 'cluster'} & set(sys.modules);"
        "print(p.__file__, *heavy)"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == [str(ROOT / "verifiers" / "process.py")]
