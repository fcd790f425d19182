"""What shares a GPU fits into it, or the run is refused; the examples for GPUs fit those that they are for."""

from __future__ import annotations

import json
import shutil

import pytest

from actors.config import RolloutConfig
from cluster.commands.plan import show_plan
from cluster.config.parse import load_config
from cluster.config.schema import RunConfig
from cluster.fleet.gpu_memory import check_shares, gpu_bytes_here, learner_bytes, shares
from cluster.fleet.needs import model_shape
from cluster.run.model_checks import check_adaptable, check_divisible
from learner.config import LearnerConfig
from learner.model import memory
from tests.shared.hollow_model import QWEN_1_5B, QWEN_7B, save_hollow
from tests.shared.paths import ROOT

GIB = 2**30
LORA = {"lora": {"rank": 32, "alpha": 64}, "weights_dtype": "bfloat16"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return save_hollow(tmp_path_factory.mktemp("models") / "1.5b", QWEN_1_5B)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return save_hollow(tmp_path_factory.mktemp("models") / "7b", QWEN_7B)


def config_of(model, rollout, learner, **settings) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": str(model),
            "rollout": {"samples_per_prompt": 16, "max_tokens": 400, "kv_cache_mib": 4096, **rollout},
            "learner": {"micro_batch_tokens": 4096, **learner},
            **settings,
        }
    )


def test_an_engine_takes_its_weights_and_its_cache_and_a_learner_what_it_trains(small):
    config = config_of(small, {"num_gpus": 0.5}, {"num_gpus": 0.5, **LORA})
    engine, learner = shares(config, 24 * GIB)
    num_parameters = model_shape(config).num_parameters
    assert num_parameters == pytest.approx(1.54e9, rel=0.01)
    assert 2 * num_parameters + 4 * GIB < engine.needed_bytes < 2 * num_parameters + 8 * GIB
    fixed = memory.fixed_bytes(model_shape(config), config.learner)
    assert 2 * num_parameters < fixed < 2.5 * num_parameters  # frozen in bfloat16, beside adapters
    assert fixed < learner.needed_bytes < 12 * GIB


def test_all_weights_of_a_model_do_not_fit_where_its_adapters_do(small):
    with_adapters = config_of(small, {"num_gpus": 0.45}, {"num_gpus": 0.55, **LORA})
    check_shares(with_adapters, 24 * GIB)
    with pytest.raises(
        ValueError, match=r"of a GPU of 24.0 GiB: rollout about .* learner about 2\d.* add \[learner.lora\]"
    ) as error:
        check_shares(config_of(small, {"num_gpus": 0.45}, {"num_gpus": 0.55}), 24 * GIB)
    assert "\n" not in str(error.value)


def test_other_shares_are_named_where_those_would_do(small):
    config = config_of(small, {"num_gpus": 0.2}, {"num_gpus": 0.8, **LORA})
    with pytest.raises(
        ValueError, match="rollout.num_gpus = 0.2 and learner.num_gpus = 0.8 .*: set rollout"
    ) as error:
        check_shares(config, 24 * GIB)
    proposed = dict(part.split("=") for part in str(error.value).rpartition(": set ")[2].split())
    rollout, learner = (float(proposed[f"{role}.num_gpus"]) for role in ("rollout", "learner"))
    check_shares(config_of(small, {"num_gpus": rollout}, {"num_gpus": learner, **LORA}), 24 * GIB)


def test_a_learner_recomputes_where_its_share_is_small(small):
    config = config_of(small, {"num_gpus": 0.5}, {"num_gpus": 0.5, **LORA})
    roomy, tight = learner_bytes(config, 100 * GIB), learner_bytes(config, 8 * GIB)
    assert tight < 0.8 * roomy


def test_two_engines_beside_a_learner_are_counted_twice_and_verifiers_too(small):
    for settings in ({"rollout": {"num_gpus": 0.2, "workers": 2}}, {"verifier": {"num_gpus": 0.3}}):
        rollout = {"num_gpus": 0.2, **settings.pop("rollout", {})}
        with pytest.raises(ValueError, match="lower rollout.kv_cache_mib"):
            check_shares(config_of(small, rollout, {"num_gpus": 0.6, **LORA}, **settings), 24 * GIB)


@pytest.mark.parametrize(
    ("parts", "learner", "words"),
    [
        (
            5,
            {},
            "does not divide model = 'm' \\(12 attention heads, 2 of keys and values, feed-forward layers of 8960\\): set it to 1, 2, 4",
        ),
        (12, {}, "set it to 1, 2, 4$"),  # 8960 / 12 is no integer
        (1, {"lora": {"publish": "adapter"}}, "which has 8 experts: set learner.lora.publish = 'merged'"),
    ],
)
def test_what_an_engine_cannot_divide_or_adapt_is_refused(parts, learner, words):
    settings = {**QWEN_1_5B, "num_experts": 8}
    with pytest.raises(ValueError, match=words):
        check_divisible(RolloutConfig(tensor_parallel=parts), settings, "m")
        check_adaptable(LearnerConfig(**learner), settings, "m")


def test_what_has_a_gpu_of_its_own_is_not_looked_at(large):
    config = config_of(large, {"num_gpus": 1}, {"num_gpus": 1})
    assert shares(config, GIB) == []
    check_shares(config, GIB)


def test_a_machine_without_a_driver_has_no_gpu(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpu_bytes_here() is None


def test_a_driver_tells_of_the_smallest_gpu(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 81559\necho 24576\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert gpu_bytes_here() == 24 * GIB


@pytest.mark.parametrize(
    ("example", "size", "placed"),
    [
        ("one_gpu", "small", "1 x 1 CPU, 0.45 GPU"),
        ("gsm8k", "small", "1 x 1 CPU, 1 GPU"),
        ("one_node", "large", "3 x 1 CPU, 2 GPU on one node, each an engine in 2 parts"),
        ("cluster", "large", "16 (up to 32) x 1 CPU, 1 GPU, 1 rollout"),
    ],
)
def test_the_examples_for_gpus_have_a_plan(example, size, placed, request, tmp_path, capsys, monkeypatch):
    rows = [{"question": f"What is {i} and 1?", "answer": f"#### {i + 1}"} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = request.getfixturevalue(size)
    overrides = [
        f"model={model}",
        "problems.source=files",
        f"problems.train_path={tmp_path}/rows.jsonl",
        f"problems.test_path={tmp_path}/rows.jsonl",
        "problems.format=gsm8k",
        "metrics.port=0",
    ]
    disk = shutil.disk_usage("/")._replace(free=10**15)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    config = load_config(ROOT / "examples" / f"{example}.toml", overrides)
    show_plan(config, tmp_path / "run", local=False)
    plan = " ".join(capsys.readouterr().out.split())
    assert placed in plan
    assert ("memory of a GPU of 24.0 GiB" in plan) == (example == "one_gpu")


def test_the_example_for_one_gpu_is_refused_on_a_smaller_one(small, tmp_path):
    config = load_config(ROOT / "examples" / "one_gpu.toml", [f"model={small}", "gpu_memory_gib=12"])
    with pytest.raises(ValueError, match="of a GPU of 12.0 GiB"):
        check_shares(config, 12 * GIB)
