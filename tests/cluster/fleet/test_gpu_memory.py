"""What shares a GPU fits into it, or the run is refused; the examples for GPUs fit those that they are for."""

from __future__ import annotations

import json
import shutil

import pytest
import transformers

from actors.config import RolloutConfig
from cluster.commands.plan import show_plan
from cluster.config.parse import load_config
from cluster.config.schema import RunConfig
from cluster.fleet.gpu_memory import engine_bytes, gpu_bytes_here, learner_bytes, num_gpus_needed, shares
from cluster.fleet.needs import model_shape, num_adapter_parameters
from cluster.run.gpu_remedies import check_shares
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


def remedies_of(error: ValueError) -> list[str]:
    """The settings that are each said to be enough."""
    assert "\n" not in str(error)
    return str(error).rpartition(": set ")[2].split(", or ")


def check_that_each_does(config: RunConfig, error: ValueError, gpu_bytes: float) -> list[str]:
    """What the error names, tried."""
    remedies = remedies_of(error)
    for remedy in remedies:
        settings = config.model_dump(exclude_none=True)
        for override in remedy.split():
            path, value = override.split("=")
            *sections, name = path.split(".")
            place = settings
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = type_of(value)
        check_shares(RunConfig.model_validate(settings), gpu_bytes)
    return [remedy.split("=")[0] for remedy in remedies]


def type_of(value: str) -> float | str:
    return float(value) if value.replace(".", "").isdigit() else value


def test_an_engine_takes_its_weights_and_its_cache_and_a_learner_what_it_trains(small):
    config = config_of(small, {"num_gpus": 0.5}, {"num_gpus": 0.5, **LORA})
    engine, learner = shares(config, 24 * GIB)
    num_parameters = model_shape(config).num_parameters
    assert num_parameters == pytest.approx(1.54e9, rel=0.01)
    assert 2 * num_parameters + 4 * GIB < engine.needed_bytes < 2 * num_parameters + 8 * GIB
    fixed = memory.fixed_bytes(model_shape(config), config.learner)
    assert 2 * num_parameters < fixed < 2.5 * num_parameters  # frozen in bfloat16, beside adapters
    assert fixed < learner.needed_bytes < 12 * GIB


def test_an_engine_takes_a_step_of_as_many_tokens_as_its_own_arguments_say(small):
    def needed(**engine) -> float:
        return engine_bytes(config_of(small, {"num_gpus": 1, "engine": engine}, {}))

    assert needed(max_num_batched_tokens=32768) > needed() + GIB


def test_engines_that_apply_adapters_have_a_place_for_one(small):
    merged, apart = (
        shares(config_of(small, {"num_gpus": 0.5}, {"num_gpus": 0.5, **lora}), 24 * GIB)[0].needed_bytes
        for lora in (LORA, {**LORA, "lora": {**LORA["lora"], "publish": "adapter"}})
    )
    assert 2 * 30e6 < apart - merged < 5 * 40e6


def test_each_gpu_has_its_part_of_an_engine_and_of_a_learner(large):
    of_one = shares(config_of(large, {"num_gpus": 1}, {"num_gpus": 1}), 1e15)
    of_four = shares(
        config_of(large, {"num_gpus": 1, "tensor_parallel": 4}, {"num_gpus": 1, "ranks": 4}), 1e15
    )
    weights = 2 * model_shape(config_of(large, {"num_gpus": 1}, {})).num_parameters
    assert of_one[0].needed_bytes - of_four[0].needed_bytes == pytest.approx(0.75 * (weights + 4 * GIB))
    fixed = 8 * weights  # 16 bytes a parameter
    assert of_one[1].needed_bytes - of_four[1].needed_bytes == pytest.approx(0.75 * fixed, rel=0.1)


def test_all_weights_of_a_model_do_not_fit_where_its_adapters_do(small):
    with_adapters = config_of(small, {"num_gpus": 0.45}, {"num_gpus": 0.55, **LORA})
    check_shares(with_adapters, 24 * GIB)
    whole = config_of(small, {"num_gpus": 0.45}, {"num_gpus": 0.55})
    with pytest.raises(
        ValueError, match=r"a GPU of 24.0 GiB: rollout needs .* learner needs about 3\d"
    ) as error:
        check_shares(whole, 24 * GIB)
    assert "learner.lora.rank" in check_that_each_does(whole, error.value, 24 * GIB)


def test_other_shares_are_named_where_those_would_do(small):
    config = config_of(small, {"num_gpus": 0.2}, {"num_gpus": 0.8, **LORA})
    with pytest.raises(ValueError, match=r"rollout.num_gpus = 0.2 gives 4.8") as error:
        check_shares(config, 24 * GIB)
    assert check_that_each_does(config, error.value, 24 * GIB) == ["rollout.num_gpus"]


def test_a_learner_recomputes_where_its_share_is_small(small):
    config = config_of(small, {"num_gpus": 0.5}, {"num_gpus": 0.5, **LORA})
    roomy, tight = learner_bytes(config, 100 * GIB), learner_bytes(config, 8 * GIB)
    assert tight[0] < 0.8 * roomy[0]
    assert (roomy[1], tight[1]) == (False, True)


@pytest.mark.parametrize(
    ("rollout", "learner", "gpu_gib", "enough"),
    [
        ({"kv_cache_mib": 32768}, LORA, 24, {"rollout.kv_cache_mib", "rollout.tensor_parallel"}),
        ({}, {"micro_batch_tokens": 65536}, 40, {"learner.micro_batch_tokens", "learner.lora.rank"}),
        (
            {},
            {"lora": {"rank": 1536}, "weights_dtype": "bfloat16"},
            24,
            {"learner.lora.rank", "learner.ranks"},
        ),
    ],
)
def test_what_does_not_fit_a_gpu_of_its_own_is_refused_with_settings_that_would(
    small, rollout, learner, gpu_gib, enough
):
    """Of the role that lacks memory alone."""
    config = config_of(small, {"num_gpus": 1, **rollout}, {"num_gpus": 1, "recompute": "always", **learner})
    with pytest.raises(ValueError, match=r"num_gpus = 1 gives") as error:
        check_shares(config, gpu_gib * GIB)
    named = check_that_each_does(config, error.value, gpu_gib * GIB)
    assert enough <= set(named)
    assert {name.split(".")[0] for name in named} == {next(iter(enough)).split(".")[0]}


def test_of_two_roles_that_lack_memory_on_gpus_of_their_own_each_gets_its_remedies(small):
    config = config_of(small, {"num_gpus": 1, "kv_cache_mib": 32768}, {"num_gpus": 1})
    with pytest.raises(
        ValueError, match=r"set rollout.kv_cache_mib=16384, .*; and set learner.weights_dtype=bfloat16, "
    ):
        check_shares(config, 24 * GIB)


def test_no_single_setting_is_named_where_none_is_enough(large):
    config = config_of(large, {"num_gpus": 0.5}, {"num_gpus": 0.5})
    with pytest.raises(
        ValueError, match=r"no one setting is enough: .*or take a smaller model or a larger GPU$"
    ):
        check_shares(config, 12 * GIB)


def told_of(config: RunConfig, gpu_gib: float = 24, num_gpus: int | None = None) -> str:
    with pytest.raises(ValueError) as error:
        check_shares(config, gpu_gib * GIB, num_gpus)
    return str(error.value)


@pytest.mark.parametrize("settings", [{"rollout": {"workers": 2}}, {"verifier": {"num_gpus": 0.4}}])
def test_other_shares_are_not_named_where_all_workers_together_have_no_place(small, settings):
    """Another engine, or a verifier's share."""
    rollout = {"num_gpus": 0.2, **settings.get("rollout", {})}
    others = {name: section for name, section in settings.items() if name != "rollout"}
    config = config_of(small, rollout, {"num_gpus": 0.4, **LORA}, **others)
    assert "rollout.num_gpus=0.4 learner.num_gpus" in told_of(config, num_gpus=2)
    assert "rollout.num_gpus=0.4 learner.num_gpus" not in told_of(config, num_gpus=1)
    assert "rollout.num_gpus=0.4 learner.num_gpus" not in told_of(config)  # it takes one now


def test_no_more_gpus_are_asked_for_than_there_are(small):
    config = config_of(small, {"num_gpus": 0.45, "kv_cache_mib": 16384}, {"num_gpus": 0.55, **LORA})
    assert "set rollout.num_gpus=0.9 learner" in told_of(config, num_gpus=2)
    of_one = told_of(config, num_gpus=1)
    assert "rollout.num_gpus=1" not in of_one and "rollout.kv_cache_mib=8192" in of_one
    whole = config_of(small, {"num_gpus": 1}, {"num_gpus": 1})
    assert "learner.ranks=3" in told_of(whole, num_gpus=4) and "learner.ranks" not in told_of(
        whole, num_gpus=3
    )


def test_parts_that_do_not_divide_the_model_are_not_named(tmp_path):
    nine_heads = {**QWEN_1_5B, "hidden_size": 1152, "num_attention_heads": 9, "num_key_value_heads": 3}
    model = save_hollow(tmp_path / "nine", nine_heads | {"intermediate_size": 8961})
    config = config_of(model, {"num_gpus": 1, "kv_cache_mib": 32768}, {})
    assert "rollout.tensor_parallel=3" in told_of(config)


def test_settings_that_do_not_go_together_are_not_named(small):
    """The frozen weights of adapters are no more exact in the engines than in the learner."""
    learner = {"num_gpus": 1, "lora": {"rank": 16}, "micro_batch_tokens": 1024, "recompute": "always"}
    exact = config_of(small, {"dtype": "float32"}, learner)
    assert "weights_dtype" not in told_of(exact, 8)
    assert "weights_dtype=bfloat16" in told_of(config_of(small, {"dtype": "bfloat16"}, learner), 8)


def test_a_model_without_layers_for_adapters_is_told_of_other_remedies(tmp_path):
    model = save_hollow(
        tmp_path / "gpt2", {}, config=transformers.GPT2Config(n_embd=1024, n_layer=24, n_head=16)
    )
    config = config_of(model, {"max_model_len": 1024}, {"num_gpus": 1, "micro_batch_tokens": 1024})
    told = told_of(config, 6)
    assert "learner.ranks=" in told and "lora" not in told
    with pytest.raises(ValueError, match=r"^learner.lora: model = .* has no linear layer but its head"):
        num_adapter_parameters(config_of(model, {}, {"lora": {}}))


@pytest.mark.parametrize(
    ("rollout", "learner", "settings", "expected"),
    [
        ({"num_gpus": 0.45}, {"num_gpus": 0.55}, {}, 1),
        ({"num_gpus": 0.6}, {"num_gpus": 0.55}, {}, 2),
        ({"num_gpus": 0.3, "workers": 3}, {"num_gpus": 0.1}, {}, 1),
        (
            {"num_gpus": 0.4, "workers": 3},
            {"num_gpus": 0.4},
            {"verifier": {"num_gpus": 0.2, "workers": 2}},
            2,
        ),
        ({"num_gpus": 1, "tensor_parallel": 2, "workers": 3}, {"num_gpus": 1, "ranks": 2}, {}, 8),
        ({}, {}, {}, 0),
    ],
)
def test_workers_are_counted_on_as_few_gpus_as_hold_them(small, rollout, learner, settings, expected):
    assert num_gpus_needed(config_of(small, rollout, learner, **settings)) == expected


@pytest.mark.parametrize(
    ("parts", "learner", "words"),
    [
        (
            5,
            {},
            "does not divide model = 'm' \\(12 attention heads, 2 of keys and values, feed-forward layers of 8960\\): set it to 1 or 2 or 4",
        ),
        (12, {}, "set it to 1 or 2 or 4$"),  # 8960 / 12 is no integer
        (1, {"lora": {"publish": "adapter"}}, "which has 8 experts: set learner.lora.publish = 'merged'"),
    ],
)
def test_what_an_engine_cannot_divide_or_adapt_is_refused(parts, learner, words):
    settings = {**QWEN_1_5B, "num_experts": 8}
    with pytest.raises(ValueError, match=words):
        check_divisible(RolloutConfig(tensor_parallel=parts), settings, "m")
        check_adaptable(LearnerConfig(**learner), settings, "m")


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
        ("math", "small", "1 x 1 CPU, 1 GPU"),
        ("one_node", "large", "2 x 1 CPU, 2 GPU, on one node, each an engine in 2 parts"),
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
    assert placed in plan and "cluster not asked by a dry run" in plan
    of_gpu = plan.partition("memory of a GPU")[2]
    assert ("of 24.0 GiB" if example == "one_gpu" else "not checked: set gpu_memory_gib") in of_gpu
    assert "rollout" in of_gpu and "learner" in of_gpu
    assert ("rank 32, alpha 64" in plan) == (example == "one_gpu")


@pytest.mark.parametrize(
    ("example", "size", "gpu_gib", "too_small_gib"),
    [
        ("one_gpu", "small", 24, 16),
        ("math", "small", 40, 24),
        ("one_node", "large", 79.6, 40),
        ("cluster", "large", 79.6, 40),
    ],
)
def test_the_examples_fit_the_gpus_that_they_are_for(example, size, gpu_gib, too_small_gib, request):
    config = load_config(ROOT / "examples" / f"{example}.toml", [f"model={request.getfixturevalue(size)}"])
    check_shares(config, gpu_gib * GIB)
    with pytest.raises(ValueError, match="a GPU of"):
        check_shares(config, too_small_gib * GIB)
