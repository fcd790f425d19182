"""The command as a user meets it: help, plans, and one line for each mistake."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from cluster.run_directory.record import RunRecord
from tests.shared.commands import bonfire
from tests.shared.paths import ROOT

EXAMPLE = ROOT / "examples" / "countdown.toml"


def one_error(result: subprocess.CompletedProcess[str]) -> str:
    slow = "has been importing its module for"  # said on a machine under load
    lines = [line for line in result.stderr.strip().splitlines() if slow not in line]
    assert result.returncode == 1, result.stderr
    assert len(lines) == 1 and lines[0].startswith("bonfire: "), result.stderr
    return lines[0]


@pytest.fixture
def jsonl_config(tmp_path, tiny_model):
    def write(row: dict[str, object], settings: str = "") -> Path:
        (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
        config = tmp_path / "own.toml"
        config.write_text(
            f'model = "{tiny_model}"\n[problems]\nsource = "files"\ntrain_path = "train.jsonl"\n'
            f"[metrics]\nport = 0\n[rollout]\nmax_tokens = 14\nmax_model_len = 64\n{settings}"
        )
        return config

    return write


GOOD_ROW = {"prompt": "1 2 3 4 = 10 :", "numbers": [1, 2, 3, 4], "target": 10}


def test_every_command_has_help_with_an_example(tmp_path):
    for command in ("train", "sft", "eval", "submit", "status", "scale", "stop", "logs"):
        result = bonfire(command, "--help", cwd=tmp_path)
        assert result.returncode == 0
        assert f"bonfire {command}" in result.stdout and "Example" in result.stdout


def test_every_command_is_told_of_in_a_line_that_is_not_cut(tmp_path):
    commands = bonfire("--help", cwd=tmp_path).stdout.split("Commands:\n")[1].splitlines()
    assert {"train", "sft", "eval", "view"} <= {line.split()[0] for line in commands}
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)


def test_settings_lists_every_section(tmp_path):
    result = bonfire("settings", cwd=tmp_path)
    assert result.returncode == 0
    for path in (
        "objective.num_select",
        "rollout.samples_per_prompt",
        "train.max_staleness",
        "verifier.timeout_s",
    ):
        assert path in result.stdout
    optional = [
        line for line in result.stdout.splitlines() if line.endswith("unless a setting of it is given.")
    ]
    assert {line.partition("]")[0] for line in optional} >= {
        "[learner.lora",
        "[evaluation",
        "[sft",
        "[verifier.judge",
    }
    assert not any(line.startswith(("[learner]", "[train]")) for line in optional)


def test_dry_run_prints_the_plan_and_leaves_nothing(tmp_path):
    result = bonfire("train", EXAMPLE, "--dry-run", "metrics.port=0", "learner.ranks=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    plan = " ".join(result.stdout.split())
    assert "100 steps x 32 prompts x 32 samples = 102,400 samples" in plan
    assert "learner 2 x 1 CPU, 0 GPU" in plan and "CPUs 4 reserved" in plan
    assert list(tmp_path.iterdir()) == []


def test_the_plan_shows_the_custom_resources_that_a_worker_reserves(tmp_path):
    asked = ("train", EXAMPLE, "--dry-run", "rollout.resources.gpu_80g=2", "metrics.port=0")
    assert "a Ray cluster of this machine alone has 0" in one_error(bonfire(*asked, cwd=tmp_path))
    result = bonfire(*asked, "--address", "head:6379", cwd=tmp_path)
    assert "rollout 2 x 1 CPU, 0 GPU, 2 gpu_80g" in " ".join(result.stdout.split())


def test_settings_can_be_looked_up_by_a_part_of_their_path(tmp_path):
    lines = bonfire("settings", "trusted", cwd=tmp_path).stdout.splitlines()
    assert [line for line in lines if " = " in line] == ["verifier.python_tests.trusted_candidates = False"]
    assert max(map(len, lines)) > 100, "in a pipe a description is one line, for grep"
    assert "no setting has 'xyz'" in one_error(bonfire("settings", "xyz", cwd=tmp_path))


def test_a_dry_run_calls_the_users_verifier_once(tmp_path, jsonl_config):
    config = jsonl_config(GOOD_ROW, '[verifier]\nreward = "mine:score"\n')
    mine = tmp_path / "mine.py"
    mine.write_text("def score(problem, completion): return 0.25 + len(completion)\n")
    result = bonfire("train", config, "--dry-run", cwd=tmp_path)
    assert "'mine:score': an empty completion has reward 0.25, score 0.25, status 'ok'" in result.stdout
    mine.write_text("def score(problem, completion): return completion[0] == problem.truth['x']\n")
    error = one_error(bonfire("train", config, "--dry-run", cwd=tmp_path))
    assert "'mine:score'" in error and "'crashed'" in error and "IndexError" in error


def test_a_misspelt_verifier_is_recognised(tmp_path, jsonl_config):
    config = jsonl_config(GOOD_ROW, '[verifier]\nreward = "exact_mach"\n')
    assert "did you mean exact_match?" in one_error(bonfire("train", config, "--dry-run", cwd=tmp_path))


def test_the_example_of_own_data_is_ready_to_train(tmp_path, tiny_model):
    folder = ROOT / "examples" / "own_data"
    subprocess.run([sys.executable, folder / "make_problems.py", tmp_path], check=True)
    paths = [f"problems.{split}_path={tmp_path}/{split}.jsonl" for split in ("train", "test")]
    overrides = [f"model={tiny_model}", "metrics.port=0", f"run_dir={tmp_path}/run", *paths]
    result = bonfire("train", folder / "own_data.toml", "--dry-run", *overrides, cwd=ROOT)
    assert "500 to train on, 200 held out" in result.stdout, result.stderr
    assert "reward 0, score 0, status 'ok'" in result.stdout


def test_a_missing_model_is_named(tmp_path, jsonl_config):
    error = one_error(bonfire("train", jsonl_config(GOOD_ROW), "model=./nowhere", cwd=tmp_path))
    assert "'./nowhere'" in error and "not a directory" in error


def test_a_model_without_safetensors_is_refused(tmp_path, jsonl_config):
    model = tmp_path / "pickled"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "pytorch_model.bin").write_bytes(b"")
    error = one_error(bonfire("train", jsonl_config(GOOD_ROW), f"model={model}", cwd=tmp_path))
    assert "safetensors" in error


def test_a_row_without_its_prompt_is_named_by_file_and_line(tmp_path, jsonl_config):
    error = one_error(bonfire("train", jsonl_config({"question": "?"}), cwd=tmp_path))
    assert "train.jsonl:1" in error and "'prompt'" in error


def test_a_row_without_what_its_verifier_needs_is_named(tmp_path, jsonl_config):
    row = {"prompt": "1 2 3 4 = 10 :", "numbers": [1, 2, 3, 4]}
    error = one_error(bonfire("train", jsonl_config(row), cwd=tmp_path))
    assert "train.jsonl:1" in error and "'target'" in error


def test_a_prompt_longer_than_the_context_is_named_before_any_work(tmp_path, jsonl_config):
    error = bonfire("train", jsonl_config(GOOD_ROW), "rollout.max_model_len=20", cwd=tmp_path)
    assert error.returncode == 1
    assert "has 7 tokens" in error.stderr and "leaves 6" in error.stderr
    assert not (tmp_path / "runs").exists()


def test_a_port_in_use_is_named(tmp_path, jsonl_config):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = one_error(bonfire("train", jsonl_config(GOOD_ROW), f"metrics.port={port}", cwd=tmp_path))
    assert f"metrics.port = {port}" in error


def test_too_little_memory_is_said_in_gib(tmp_path, jsonl_config):
    error = one_error(bonfire("train", jsonl_config(GOOD_ROW), "rollout.kv_cache_mib=9999999", cwd=tmp_path))
    assert (
        "GiB of memory" in error
        and "lower rollout.workers, learner.micro_batch_tokens or rollout.kv_cache_mib" in error
    )


def test_memory_is_reserved_for_as_many_workers_as_there_may_be(tmp_path, jsonl_config):
    error = one_error(
        bonfire(
            "train", jsonl_config(GOOD_ROW), "scaling={max_rollout = 999, max_verifier = 2}", cwd=tmp_path
        )
    )
    assert "GiB of memory" in error and "lower scaling.max_rollout" in error


def test_too_little_disk_is_said_in_gib(tmp_path, jsonl_config):
    overrides = ("train.steps=1000000", "train.groups_per_step=1000000")
    error = one_error(bonfire("train", jsonl_config(GOOD_ROW), *overrides, cwd=tmp_path))
    assert "GiB are free" in error and "run_dir" in error


def test_a_base_model_made_otherwise_is_not_overwritten(tmp_path):
    model = tmp_path / "someone-elses"
    model.mkdir()
    save_file({}, model / "model.safetensors")
    overrides = (f"model={model}", "metrics.port=0")
    error = one_error(bonfire("train", EXAMPLE, *overrides, "--dry-run", cwd=tmp_path))
    assert "someone-elses" in error and "[sft]" in error
    assert [path.name for path in model.iterdir()] == ["model.safetensors"]


EVALUATION = "[evaluation]\nsamples_per_problem = 8\nks = [1]\n"


@pytest.mark.parametrize(
    ("settings", "arguments", "what"),
    [
        ("", ["m=./nowhere"], "no [evaluation] section"),
        (EVALUATION, [], "no models given"),
        (EVALUATION, ["m=./nowhere"], "'./nowhere' is not a directory"),
        (EVALUATION, ["./nowhere", "evaluation.ks=[1, 16]"], "evaluation.ks = [1, 16] must lie in"),
        (EVALUATION, ["./nowhere", "evaluation.sed=4"], "did you mean evaluation.seed?"),
        (EVALUATION, ["m=./nowhere", "--rescore", "runs/x"], "leave out the models ['m=./nowhere']"),
        (EVALUATION, ["--rescore", "runs/x"], "runs/x holds no evaluation"),
    ],
)
def test_a_mistaken_evaluation_is_refused_before_any_work(tmp_path, jsonl_config, settings, arguments, what):
    config = jsonl_config(GOOD_ROW, settings)
    assert what in one_error(bonfire("eval", config, *arguments, cwd=tmp_path))
    assert not (tmp_path / "runs").exists()


def test_resume_needs_a_run_directory(tmp_path):
    error = one_error(bonfire("train", "--resume", tmp_path, cwd=tmp_path))
    assert "no run directory" in error


def test_status_without_a_run_says_so(tmp_path):
    assert "no run under runs/ is alive" in one_error(bonfire("status", cwd=tmp_path))


def test_a_config_without_evaluation_needs_no_held_out_problems(jsonl_config):
    from cluster.config.parse import load_config
    from cluster.run.intake import check_prompts
    from cluster.run.preflight import tokenizer_of

    config = load_config(jsonl_config(GOOD_ROW))
    assert config.evaluation is None
    assert check_prompts(config, [], tokenizer_of(config)) == []


def test_resume_auto_plans_a_new_run_or_the_one_that_is_there(tmp_path, jsonl_config):
    config = jsonl_config(GOOD_ROW)
    begin = ("train", config, "--resume", "auto", "--dry-run", f"run_dir={tmp_path}/run")
    assert f"run directory {tmp_path}/run" in " ".join(bonfire(*begin, cwd=tmp_path).stdout.split())
    assert "give CONFIG too" in one_error(bonfire("train", "--resume", "auto", "run_dir=run", cwd=tmp_path))
    assert "needs run_dir=DIR" in one_error(bonfire("train", config, "--resume", "auto", cwd=tmp_path))


def test_the_plan_of_a_resume_says_where_it_goes_on_or_refuses_what_the_resume_would(tmp_path, jsonl_config):
    from cluster.config.parse import load_config
    from cluster.run.intake import take_in
    from cluster.run_directory.identity import identity

    file = jsonl_config(GOOD_ROW, "[learner.lora]\nrank = 4\n")
    config = load_config(file, [f"problems.train_path={tmp_path}/train.jsonl"])
    record = RunRecord(tmp_path / "run")
    (record.run_dir / "config.toml").write_text(file.read_text())
    problems = take_in(config, "train", None, judges_here=True).problems
    record.begin_checkpoint(5)
    record.finish_checkpoint(5, {"version": 5, "identity": identity(config, problems)}, keep=1)
    resume = ("train", "--resume", "run", "--dry-run")
    told = bonfire(*resume, cwd=tmp_path)
    assert "run directory  run, from step-000005 on" in told.stdout, told.stderr
    assert "rank 4, alpha 32, on all-linear" in told.stdout
    error = one_error(bonfire(*resume, "learner.lora.rank=8", cwd=tmp_path))
    assert "learner.lora.rank is 8, checkpoint run/checkpoints/step-000005 was made with 4" in error


def test_a_run_without_a_checkpoint_that_can_be_used_is_one_line_and_stays_as_it_is(tmp_path, jsonl_config):
    record = RunRecord(tmp_path / "run")
    (record.run_dir / "config.toml").write_text(jsonl_config(GOOD_ROW).read_text())
    (record.begin_checkpoint(5) / "learner.json").write_text("{}")
    checkpoint = record.finish_checkpoint(5, {"version": 5}, keep=1)
    (checkpoint / "learner.json").write_text("[]")
    error = one_error(bonfire("train", "--resume", "run", cwd=tmp_path))
    assert "run/checkpoints has no checkpoint that can be used (step-000005: learner.json has other" in error
    assert sorted(path.name for path in record.run_dir.iterdir()) == [
        "checkpoints",
        "config.toml",
        "trajectories",
    ]
