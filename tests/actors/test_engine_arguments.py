"""`[rollout.engine]`: what reaches vLLM, and what is refused, by name."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import ValidationError

from actors.config import RolloutConfig
from actors.engine import Engine
from actors.engine_config import DECIDED, check_known, known_arguments
from actors.environment import engine_arguments, engine_environment
from cluster.config.parse import load_config, parse_config
from cluster.run.preflight import check_engine
from tests.shared.engine import ENGINE
from tests.shared.refusals import refusal


def parse(name, value):
    return parse_config({"model": "m", "rollout": {"engine": {name: value}}}, source="run.toml")


TUNABLE = {"block_size", "enforce_eager", "max_num_batched_tokens"}
"""What the engine sets and a user may set otherwise: they change its speed, not what is sampled."""


def test_arguments_reach_the_engine_nested_tables_included(engine):
    assert ENGINE.engine == {
        "max_num_batched_tokens": 4096,
        "structured_outputs_config": {"backend": "guidance"},
    }
    config = engine._llm.vllm_config
    assert config.scheduler_config.max_num_batched_tokens == 4096
    assert config.structured_outputs_config.backend == "guidance"


@pytest.mark.parametrize("settings", [{}, {"num_gpus": 0.5}, {"tensor_parallel": 2, "num_gpus": 1}])
def test_every_argument_that_is_set_is_the_systems_own_or_one_of_speed(settings):
    arguments = engine_arguments("m", RolloutConfig(**settings)).keys()
    assert len(arguments) > 15
    assert arguments - set(DECIDED) == TUNABLE


def test_an_engine_on_a_gpu_asks_for_less_than_its_share_to_be_free():
    assert 0.2 < engine_arguments("m", RolloutConfig(num_gpus=0.45))["gpu_memory_utilization"] < 0.45
    assert engine_arguments("m", RolloutConfig(num_gpus=1))["gpu_memory_utilization"] == 0.75
    assert "gpu_memory_utilization" not in engine_arguments("m", RolloutConfig())


def test_an_engine_on_the_cpu_sees_no_gpu_and_one_on_a_gpu_has_time_and_the_runner_of_the_tests():
    """Ray hides GPUs from no actor, and vLLM takes what it finds."""
    on_cpu, on_gpu = RolloutConfig(), RolloutConfig(num_gpus=1)
    assert engine_environment(on_cpu)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in engine_environment(on_gpu)
    assert engine_environment(on_gpu)["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    assert (on_cpu.startup_timeout_s, on_gpu.startup_timeout_s) == (180, 900)


def test_the_parts_of_an_engine_divide_its_cores_and_its_cache():
    config = RolloutConfig(tensor_parallel=2, num_cpus=4, kv_cache_mib=512, heartbeat_timeout_s=7.5)
    arguments, environment = engine_arguments("m", config), engine_environment(config)
    assert (arguments["tensor_parallel_size"], arguments["kv_cache_memory_bytes"]) == (2, 256 << 20)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] == "7"
    with pytest.raises(ValidationError, match="num_gpus = 0.5 with tensor_parallel = 2: each part wants"):
        RolloutConfig(tensor_parallel=2, num_gpus=0.5)


def test_the_names_read_from_the_source_are_those_of_the_class():
    from vllm.engine.arg_utils import EngineArgs

    names = {field.name for field in dataclasses.fields(EngineArgs)}
    assert known_arguments() == names
    assert set(DECIDED) <= names


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("model", "other", "set model"),
        ("dtype", "half", "set rollout.dtype"),
        ("seed", 3, "every group has a seed of its own; set train.seed"),
        ("gpu_memory_utilization", 0.5, "set rollout.kv_cache_mib"),
        ("tensor_parallel_size", 2, "set rollout.tensor_parallel"),
        (
            "pipeline_parallel_size",
            2,
            "Ray gives an engine its devices; set rollout.workers, rollout.num_gpus and rollout.tensor_parallel",
        ),
        ("trust_remote_code", True, "nothing of a model or a prompt may run code or read files here"),
    ],
)
def test_what_the_system_decides_is_refused_with_what_to_do_instead(name, value, instead):
    text = refusal(lambda: parse(name, value))
    assert text == f"run.toml: rollout.engine.{name} = {value!r} is not yours to set: {instead}"


def test_a_secret_is_refused_without_being_shown():
    text = refusal(lambda: parse("hf_token", "hf_secret"))
    assert (
        text.startswith("run.toml: rollout.engine.hf_token is not yours to set") and "hf_secret" not in text
    )
    with pytest.raises(ValidationError) as caught:
        RolloutConfig(engine={"hf_token": "hf_secret", "seed": 1})
    assert "seed = 1 is not yours to set" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "closer"),
    [
        ("max_num_batched_token", " (did you mean rollout.engine.max_num_batched_tokens?)"),
        ("attention-backend", " (did you mean rollout.engine.attention_backend?)"),
        ("_api_process_count", ""),
        ("zzz", ""),
    ],
)
def test_an_unknown_argument_is_refused_before_anything_starts(name, closer):
    config = parse_config({"model": "m", "rollout": {"engine": {name: 1, "max_num_batched_tokens": 9}}})
    with pytest.raises(ValueError) as caught:
        check_engine(config)
    assert str(caught.value) == (
        f"rollout.engine.{name} = 1: vLLM has no such argument{closer}; remove it or see vllm.EngineArgs"
    )
    with pytest.raises(ValueError, match="vLLM has no such argument"):
        Engine("nowhere", config.rollout, stop_token_ids=[1])


def test_what_vllm_itself_refuses_names_the_table(tiny_model):
    config = ENGINE.model_copy(update={"engine": {"max_num_batched_tokens": 1}})
    with pytest.raises(
        ValueError, match=r"^vLLM does not start with rollout\.engine = \{'max_num_b.*: "
    ) as caught:
        Engine(str(tiny_model), config, stop_token_ids=[1])
    assert "\n" not in str(caught.value)


def test_what_vllm_refuses_without_the_table_is_one_line_too(tiny_model):
    config = ENGINE.model_copy(update={"engine": {}, "max_model_len": 10**6})
    with pytest.raises(ValueError, match=r"^vLLM does not start: .*max_model_len") as caught:
        Engine(str(tiny_model), config, stop_token_ids=[1])
    assert "\n" not in str(caught.value) and type(caught.value) is ValueError  # and so can be pickled


@pytest.mark.parametrize("lengths", [{"max_model_len": 64}, {"max_model_len": 4096}])
@pytest.mark.parametrize("num_gpus", [0, 1])
def test_a_step_of_an_engine_with_adapters_has_room_for_each_sequence(lengths, num_gpus):
    config = RolloutConfig(num_gpus=num_gpus, **lengths).model_copy(update={"adapter_rank": 8})
    tokens = engine_arguments("m", config)["max_num_batched_tokens"]
    assert tokens >= max(config.max_num_seqs, config.max_model_len)


def test_an_argument_can_be_given_on_the_command_line(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'model = "m"\n[rollout.engine]\nenforce_eager = true\n[rollout.engine.attention_config]\na = 1\n'
    )
    config = load_config(
        path, ["rollout.engine.max_num_batched_tokens=16384", "rollout.engine.attention_config.b=2"]
    )
    assert config.rollout.engine == {
        "enforce_eager": True,
        "max_num_batched_tokens": 16384,
        "attention_config": {"a": 1, "b": 2},
    }
    check_known(config.rollout.engine, known_arguments())
