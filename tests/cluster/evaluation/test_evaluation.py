"""An evaluation with real engines and verifiers: killed, gone on with, extended, judged again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from rich.console import Console

from actors.tokens import encode_prompts, load_tokenizer
from actors.types import Lease, Piece
from cluster.config.parse import is_override, load_config
from cluster.config.schema import RunConfig
from cluster.evaluation.evaluation import (
    MERGED,
    enter_model,
    evaluation_stage,
    identity_of,
    missing_asks,
    models_side_by_side,
    name_models,
    report_on,
    sample_missing,
)
from cluster.evaluation.identity import verdict_identity
from cluster.evaluation.rescoring import find_problems, judge_missing, rescore
from cluster.evaluation.session import STAGE
from cluster.evaluation.store import SETTINGS_FILE, Cell, EvalStore, read_samples, sample_files
from cluster.fleet.calls import Halt
from cluster.terminal.console import View
from tests.shared.engine import ENGINE
from tests.shared.policies import load, make_policy
from verifiers.problems.loading import load_problems
from verifiers.types import Problem

PROBLEMS, SAMPLES = 160, ENGINE.samples_per_prompt
COLD, HOT = Cell(model="tiny", temperature=0.7), Cell(model="tiny", temperature=1.0)
VERIFIERS = """
from verifiers.types import Verdict

def first(problem, completion):
    reward = float(len(completion) % 3 == 0)
    return Verdict(score=reward, reward=reward, answer=completion[:2])

def second(problem, completion):
    return Verdict(score=float(sum(map(ord, completion)) % 7), reward=float(len(completion) % 3 == 0))

def broken(problem, completion):
    raise KeyError("no such column")
"""


@pytest.fixture(scope="module")
def config_file(tiny_model: Path, user_modules: Path) -> Path:
    (user_modules / "eval_verifiers.py").write_text(VERIFIERS)
    settings = {
        "model": str(tiny_model),
        "problems": {"num_test": PROBLEMS},
        "verifier": {"reward": "eval_verifiers:first"},
        "rollout": {
            "max_tokens": ENGINE.max_tokens,
            "max_model_len": ENGINE.max_model_len,
            "max_num_seqs": ENGINE.max_num_seqs,
            "kv_cache_mib": 16,
        },
        "evaluation": {"samples_per_problem": SAMPLES, "ks": [1, 2, 4], "temperatures": [0.7]},
    }
    path = user_modules / "evaluation.toml"
    path.write_text(tomli_w.dumps(settings))
    return path


@pytest.fixture(scope="module")
def view() -> View:
    view = View("test", [STAGE], Console(quiet=True))
    view.start(STAGE)
    return view


def never_asked() -> None:
    """Nobody asks to stop."""


def complete(config: RunConfig, out: Path, view: View, model: Path) -> None:
    """What `bonfire eval` does once Ray is up."""
    problems = load_problems(config.problems, "test")
    with EvalStore(out, identity_of(config, problems), problems) as store:
        enter_model(store, "tiny", str(model))
        sample_missing(config, store, missing_asks(config, store), view, never_asked)
        report_on(config, store, view, never_asked)


def command(*arguments: object) -> list[str]:
    return [
        sys.executable,
        "-c",
        "from cluster.commands.cli import main; main()",
        "eval",
        *map(str, arguments),
    ]


@pytest.fixture(scope="module")
def killing(
    ray_cluster, config_file, tiny_model, tmp_path_factory
) -> Iterator[tuple[Path, threading.Thread]]:
    """An evaluation that is being killed with SIGKILL once a part is written, while other fixtures work."""
    out = tmp_path_factory.mktemp("killed") / "out"
    arguments = (config_file, f"tiny={tiny_model}", "--out", out, "--address", ray_cluster)
    process = subprocess.Popen(command(*arguments), cwd=config_file.parent, stdout=subprocess.DEVNULL)

    def kill_at_the_first_part() -> None:
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if list(out.glob("samples/*.parts/*.parquet")):
                break
            time.sleep(0.01)
        process.kill()
        process.wait()

    thread = threading.Thread(target=kill_at_the_first_part)
    thread.start()
    yield out, thread
    thread.join()


@pytest.fixture(scope="module")
def uninterrupted(killing, engine, tiny_model, config_file) -> dict[Cell, list[list[tuple[int, ...]]]]:
    """The token ids of each problem's samples in one go, by an engine without evaluation, workers or Ray."""
    load(engine, make_policy(tiny_model))
    config = load_config(config_file)
    prompts = encode_prompts(load_tokenizer(str(tiny_model)), load_problems(config.problems, "test"))
    sampled = {}
    for cell in (COLD, HOT):
        leases = [
            Lease(
                piece=Piece(index, 0, SAMPLES),
                problem_id="p",
                prompt_token_ids=prompt,
                seed=(1 << 32) + index * SAMPLES,
                temperature=cell.temperature,
            )
            for index, prompt in enumerate(prompts)
        ]
        outputs = [future.result(60.0) for future in engine.sample(leases)]
        sampled[cell] = [[tuple(one.token_ids) for one in output] for output in outputs]
    return sampled


@pytest.fixture(scope="module")
def whole(killing, uninterrupted, config_file, tiny_model, view) -> tuple[Path, int]:
    """The killed one, which had one temperature, completed at both; and how many problems the kill had left."""
    out, thread = killing
    thread.join()
    config = load_config(config_file, ["evaluation.temperatures=[0.7, 1.0]"])
    problems = load_problems(config.problems, "test")
    with EvalStore(out, identity_of(config, problems), problems) as store:
        num_missing = len(store.missing(COLD))
    complete(config, out, view, tiny_model)
    return out, num_missing


@pytest.fixture(scope="module")
def finished(whole) -> Path:
    return whole[0]


def test_a_killed_evaluation_gone_on_with_has_the_samples_of_one_in_one_go(whole, uninterrupted):
    out, num_missing = whole
    assert 0 < num_missing < PROBLEMS
    assert list(sample_files(out)) == [COLD, HOT]
    for cell, path in sample_files(out).items():
        groups = read_samples(path)
        assert [group.samples.group for group in groups] == list(range(PROBLEMS))
        for group, expected in zip(groups, uninterrupted[cell], strict=True):
            samples = np.split(group.samples.token_ids, group.samples.offsets[1:-1])
            assert [tuple(sample.tolist()) for sample in samples] == expected
            assert group.rewards.tolist() == [float(len(text) % 3 == 0) for text in group.samples.texts]
            assert group.answers == tuple(text[:2] for text in group.samples.texts)
    assert not list(out.glob("samples/*.parts"))


def test_temperatures_are_sampled_at_and_share_their_seeds(finished):
    cold, hot = (read_samples(path) for path in sample_files(finished).values())
    surer = [np.concatenate([group.samples.logprobs for group in groups]).mean() for groups in (cold, hot)]
    assert surer[0] > surer[1] + 0.1
    for index, (one, other) in enumerate(zip(cold, hot, strict=True)):
        assert one.samples.seed == other.samples.seed == (1 << 32) + index * SAMPLES


def test_a_finished_evaluation_samples_nothing_again(finished, config_file, tiny_model, view):
    before = {path: path.stat().st_mtime_ns for path in finished.glob("samples/*")}
    config = load_config(config_file, ["evaluation.temperatures=[0.7, 1.0]", "evaluation.ks=[8]"])
    complete(config, finished, view, tiny_model)
    assert {path: path.stat().st_mtime_ns for path in finished.glob("samples/*")} == before
    assert json.loads((finished / "report.json").read_text())["ks"] == [8]


def test_a_run_that_has_another_best_model_since_evaluates_no_older_one(
    finished, config_file, tiny_model, view, tmp_path
):
    """A directory that an earlier end of the run left, in which a user has sampled a model of another name."""
    directory = tmp_path / STAGE
    shutil.copytree(finished, directory)
    for cell, path in sample_files(directory).items():
        for name in ("base", "trained", "best", "mine") if cell == HOT else ():
            shutil.copyfile(path, path.with_name(path.name.replace("tiny", name)))
        path.unlink()
    settings = json.loads((directory / SETTINGS_FILE).read_text())
    (tiny,) = settings["models"].values()
    gone = {"path": str(directory / MERGED / "gone"), "fingerprint": "of other weights"}
    settings["models"] = {"base": tiny, "trained": tiny, "best": gone, "mine": tiny}
    (directory / SETTINGS_FILE).write_text(json.dumps(settings))
    (directory / MERGED / "gone").mkdir(parents=True)
    config = load_config(config_file, ["evaluation.temperatures=[1.0]"])
    report = evaluation_stage(
        config,
        view,
        {"base": str(tiny_model), "trained": str(tiny_model)},
        load_problems(config.problems, "test"),
        tmp_path,
        go_on="",
        before_sampling=pytest.fail,
    )
    assert {result.cell.model for result in report.results} == {"base", "trained", "mine"}
    assert not list((directory / "samples").glob("best@*")) and not list((directory / MERGED).iterdir())


@pytest.fixture(scope="module")
def judge_again(finished, config_file, tmp_path_factory, view) -> Callable[[str], Path]:
    def judge(verifier: str) -> Path:
        new = tmp_path_factory.mktemp("rescored") / "out"
        config = load_config(config_file, [f"verifier.reward={verifier}"])
        problems = load_problems(config.problems, "test")
        identity = {"evaluation.samples_per_problem": SAMPLES, **verdict_identity(config, problems)}
        with EvalStore(new, identity, problems) as store:
            judge_missing(config, store, sample_files(finished), view, never_asked)
        return new

    return judge


def test_samples_judged_again_keep_their_texts_and_get_new_verdicts(finished, judge_again):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    new = judge_again("eval_verifiers:second")
    for cell, path in sample_files(finished).items():
        for old, again in zip(read_samples(path), read_samples(sample_files(new)[cell]), strict=True):
            assert again.samples.texts == old.samples.texts
            assert again.rewards.tolist() == old.rewards.tolist()
            assert again.scores.tolist() == [sum(map(ord, text)) % 7 for text in old.samples.texts]
            assert again.answers == (None,) * SAMPLES
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_failing_verifier_stops_the_evaluation_with_its_message(judge_again):
    with pytest.raises(Halt, match="no such column"):
        judge_again("eval_verifiers:broken")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_and_says_how_to_go_on(
    number, ray_cluster, config_file, tiny_model, tmp_path
):
    out, setting = tmp_path / "out", "evaluation.temperatures=[0.7, 1]"
    arguments = (config_file, f"tiny={tiny_model}", setting, "--out", out, "--address", ray_cluster)
    process = subprocess.Popen(
        command(*arguments), cwd=config_file.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "looking for what is missing" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(1.0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 130
    again = f"bonfire eval {config_file} tiny={tiny_model} '{setting}' --address {ray_cluster} --out {out}"
    assert (
        errors.strip().splitlines()[-1] == f"bonfire: stopped, what was sampled is kept; go on with: {again}"
    )


# Without engines


def test_models_are_named_by_their_path_unless_given_a_name():
    assert name_models(["a=runs/x/model", "runs/base", "Qwen/Qwen2.5-0.5B"]) == {
        "a": "runs/x/model",
        "base": "runs/base",
        "Qwen2.5-0.5B": "Qwen/Qwen2.5-0.5B",
    }
    with pytest.raises(ValueError, match="share a name"):
        name_models(["x/model", "y/model"])
    with pytest.raises(ValueError, match="'a/b' has characters"):
        name_models(["a/b=x"])


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("evaluation.seed=2", True),
        ("evaluation.sed=2", True),  # a misspelt setting is named as one
        ("rollout.temperature=0.7", True),
        ("v1.5=runs/model", False),
        ("model=runs/model", False),
        ("base=runs/evaluation.seed=2", False),
        ("evaluation.d/model", False),
    ],
)
def test_an_argument_is_a_setting_if_its_key_begins_with_a_section(argument, expected):
    assert is_override(argument) is expected


def test_judging_again_leaves_the_samples_where_they_are(config_file, tmp_path, monkeypatch):
    config = load_config(config_file)
    with pytest.raises(ValueError, match="as it is: choose another --out"):
        rescore(config, tmp_path, tmp_path / ".", address=None, command="")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="holds no evaluation"):
        rescore(config, Path(), None, address=None, command="")
    assert not list(tmp_path.iterdir())


def test_problems_to_judge_again_are_found_by_id_and_prompt():
    now = [Problem(id=str(i), prompt=f"prompt {i}", truth={"answer": i}, difficulty="d") for i in range(6)]
    asked = [Problem(id=str(i), prompt=f"prompt {i}") for i in (4, 1)]
    assert find_problems(asked, now) == [now[4], now[1]]
    with pytest.raises(
        ValueError, match="4 of the 6 problems sampled are not held out by the config: '2', '3', '4', ..."
    ):
        find_problems(now, now[:2])
    with pytest.raises(ValueError, match="1 of the 1 problems sampled have another prompt there: '4'"):
        find_problems([Problem(id="4", prompt="another")], now)


def test_models_are_sampled_side_by_side_as_far_as_custom_resources_go():
    rollout = {"workers": 2, "num_cpus": 1, "resources": {"gpu_80g": 1}}
    config = RunConfig.model_validate(
        {"model": "m", "rollout": rollout, "verifier": {"resources": {"gpu_80g": 1}}}
    )
    assert models_side_by_side(config, {"CPU": 100.0, "gpu_80g": 7.0}) == 2
    assert models_side_by_side(config, {"CPU": 2.0, "gpu_80g": 7.0}) == 1
    assert models_side_by_side(config, {"CPU": 100.0}) == 1
