"""A model's files, looked at before anything is started: every fault is one line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file, save_file

from actors.model_files import read_object, stored_shapes
from actors.tokens import load_tokenizer, stop_token_ids
from cluster.config.schema import RunConfig
from cluster.run import model_checks
from cluster.run.intake import check_prompts
from cluster.run.model_checks import (
    check_verifier_models,
    warn_of_slow_dtypes,
    warn_of_unread_arguments,
    with_verifier_models_found,
)
from cluster.run.preflight import check_context, check_demonstrations, check_model
from learner.model.causal_lm import load_model
from learner.model.memory import ModelShape
from tests.actors.test_prompts import CHATML, make_tokenizer
from tests.shared.refusals import refusal
from verifiers.config import VerifierConfig
from verifiers.types import Problem


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    """Set these keys; `...` removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def refused(model: Path) -> str:
    return refusal(lambda: check_model(str(model))).replace(str(model), "MODEL")


def test_a_sound_model_passes_and_its_headers_tell_all_its_tensors(model: Path) -> None:
    check_model(str(model))
    tensors = load_file(model / "model.safetensors")
    assert {name: one.shape for name, one in stored_shapes(model).items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"]
)
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("[1, 2]", "holds [1, 2], not a JSON object"),
        ("null", "holds None, not a JSON object"),
        ('"text"', "holds 'text', not a JSON object"),
        ("3", "holds 3, not a JSON object"),
        ('{"a": 1', "is not JSON (Expecting"),
        ("", "is not JSON (Expecting value"),
        ("\x00\x01", "is not JSON ("),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "is a git-lfs pointer: fetch the file with git lfs",
        ),
    ],
)
def test_a_file_that_holds_no_object_is_named(model: Path, name: str, content: str, fault: str) -> None:
    (model / name).write_text(content)
    assert refused(model).startswith(f"MODEL/{name} {fault}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_position_embeddings": "many"},
            "max_position_embeddings is 'many': make it a whole number above 0",
        ),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0: make it a whole number above 0"),
        ({"vocab_size": 1.5}, "vocab_size is 1.5: make it a whole number above 0"),
        ({"hidden_size": [96]}, "hidden_size is [96]: make it a whole number above 0"),
        ({"num_attention_heads": True}, "num_attention_heads is True: make it a whole number above 0"),
        (
            {"num_key_value_heads": "3"},
            "num_attention_heads is 2, which num_key_value_heads, '3', does not divide",
        ),
        (
            {"num_key_value_heads": 3},
            "num_attention_heads is 2, which num_key_value_heads, 3, does not divide",
        ),
        (
            {"num_attention_heads": 7, "num_key_value_heads": 7, "head_dim": ...},
            "hidden_size is 64, which num_attention_heads, 7, does not divide",
        ),
    ],
)
def test_sizes_that_no_model_can_have_are_named_with_their_key(
    model: Path, changes: dict[str, Any], message: str
) -> None:
    edit(model / "config.json", **changes)
    assert refused(model).startswith(f"MODEL/config.json: {message}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "nonesuch"}, ["transformers cannot read its config.json", "nonesuch"]),
        (
            {"model_type": "vit"},
            ["config.json has model_type 'vit', of which transformers has no causal language model"],
        ),
        ({"model_type": 3}, ["transformers cannot read its config.json"]),
        ({"rms_norm_eps": "tiny"}, ["transformers cannot read its config.json", "rms_norm_eps", "tiny"]),
        ({"intermediate_size": None}, ["MODEL"]),
    ],
)
def test_what_transformers_cannot_make_a_model_of_is_one_line(
    model: Path, changes: dict[str, Any], words: list[str]
) -> None:
    edit(model / "config.json", **changes)
    message = refused(model)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"bits": 4}, "{'bits': 4}"),
        ("int8", "'int8'"),
    ],
)
def test_a_quantised_model_is_refused(model: Path, settings: Any, method: str) -> None:
    edit(model / "config.json", quantization_config=settings)
    assert refused(model).startswith(
        f"MODEL/config.json: quantization_config says that the weights are quantised ({method}), and such weights cannot be"
    )


def test_quantised_weights_are_known_without_a_setting(model: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name.replace("weight", "qweight"): tensors[name].astype("int32")}, path)
    assert "mlp.up_proj.qweight' is quantised (I32)" in refused(model)
    from safetensors.torch import save_file as save_torch

    save_torch({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, path)
    assert "'a' is quantised (F8_E4M3)" in refused(model)


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (cut, "is damaged (its header tells of"),
        (lambda raw: raw + b"\0", "longer than that"),
        (lambda raw: raw[:100], "without a whole header"),
        (lambda raw: b"", "is damaged (0 bytes without a whole header)"),
        (lambda raw: b"\xff" * 8 + raw, "without a whole header"),
        (lambda raw: raw[:8] + b"[" * 50 + raw[58:], "is damaged (its header:"),
        (lambda raw: (2).to_bytes(8, "little") + b"[]", "is damaged (its header:"),
        (
            lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a git-lfs pointer",
        ),
    ],
    ids=["cut", "longer", "header cut", "empty", "garbage", "no JSON", "a list", "pointer"],
)
def test_damaged_weights_are_told_by_header_and_length(
    model: Path, damage: Callable[[bytes], bytes], fault: str
) -> None:
    path = model / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    message = refused(model)
    assert message.startswith("MODEL/model.safetensors is ") and fault in message


def test_a_shard_that_is_not_there_is_named(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(model).startswith(
        "MODEL/model.safetensors.index.json names model-00002-of-00002.safetensors, which is not there (1 such files)"
    )
    (model / "model.safetensors.index.json").write_text('{"weight_map": null}')
    assert "weight_map is None, not an object" in refused(model)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"vocab_size": 57}, "'lm_head.weight' has the shape [110, 64], config.json asks for [57, 64]"),
        ({"intermediate_size": 64}, "has the shape [64, 96], config.json asks for [64, 64]"),
        (
            {"num_hidden_layers": 1},
            "is stored, and config.json asks for 1 layers: take the config.json that belongs to the weights",
        ),
        ({"num_hidden_layers": 5}, "is not among its stored weights (27 such names)"),
    ],
)
def test_weights_of_another_model_than_the_config_are_known_by_shape_and_name(
    model: Path, changes: dict[str, Any], fault: str
) -> None:
    edit(model / "config.json", **changes)
    assert fault in refused(model)


def test_what_is_stored_besides_the_language_model_is_no_layer_of_it(model: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"visual.blocks.9.weight": tensors["model.norm.weight"]}, path)
    check_model(str(model))


def test_a_tensor_that_is_missing_is_named(model: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.0.mlp.down_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    assert "'model.layers.0.mlp.down_proj.weight' is not among its stored weights (1 such names)" in refused(
        model
    )


def test_weights_that_are_no_numbers_are_named_when_they_are_loaded(model: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    assert "has weights that are NaN or infinite, 'model.norm.weight' first" in refusal(
        lambda: load_model(str(model))
    )


# The tokenizer


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"added_tokens": ...}, "has no 'added_tokens'"),
        ({"model": ...}, "has no 'model'"),
        ({"model": []}, "model is [], not an object"),
        ({"added_tokens": None}, "added_tokens is None, not a list"),
    ],
)
def test_a_tokenizer_without_its_parts_is_named(model: Path, changes: dict[str, Any], fault: str) -> None:
    edit(model / "tokenizer.json", **changes)
    assert fault in refused(model)


@pytest.mark.parametrize(
    "changes",
    [{"model": {}}, {"model": {"type": "BPE"}}, {"added_tokens": [3]}, {"pre_tokenizer": {"type": "None"}}],
)
def test_a_tokenizer_that_does_not_load_is_one_line_whatever_it_raises(
    model: Path, changes: dict[str, Any]
) -> None:
    edit(model / "tokenizer.json", **changes)
    assert "has no tokenizer that loads (" in refusal(lambda: load_tokenizer(str(model)))


@pytest.mark.parametrize("stop", ["2", [], ["2"], 1.5, -1, True, {"a": 2}])
def test_an_end_token_that_is_no_number_is_named(model: Path, stop: Any) -> None:
    edit(model / "generation_config.json", eos_token_id=stop)
    assert f"generation_config.json: eos_token_id is {stop!r}: make it a token's number" in refused(model)
    with pytest.raises(ValueError, match="eos_token_id is"):
        stop_token_ids(str(model), make_tokenizer(None))


# Boundaries where the same files are read without these checks before


def test_readers_of_single_sizes_say_it_in_one_line_too(model: Path) -> None:
    edit(model / "config.json", num_attention_heads="3")
    assert "num_attention_heads is '3': make it a whole" in refusal(lambda: ModelShape.read(model, 1.0))
    edit(model / "config.json", num_attention_heads=2, moe_intermediate_size=3, num_experts_per_tok="2")
    assert "has sizes that cannot be reckoned with" in refusal(lambda: ModelShape.read(model, 1.0))
    (model / "config.json").write_text("[]")
    assert "not a JSON object" in refusal(lambda: check_context(run_config(model)))
    assert "cannot be read" in refusal(lambda: read_object(model / "none.json"))


@pytest.mark.parametrize("section", ["reward_model", "judge"])
def test_the_settings_of_a_model_that_judges_are_looked_at_too(model: Path, section: str) -> None:
    config = VerifierConfig.model_validate({"reward": section, section: {"model": str(model)}})
    edit(model / "config.json", quantization_config={"quant_method": "awq"})
    check_verifier_models(config)  # it is not trained
    (model / "config.json").write_text("null")
    assert "config.json holds None, not a JSON object" in refusal(lambda: check_verifier_models(config))


def test_a_model_that_judges_is_given_to_workers_by_its_absolute_path(model: Path, monkeypatch: Any) -> None:
    """Their working directory is where `ray start` ran."""
    monkeypatch.chdir(model.parent)

    def found(name: str) -> str:
        config = run_config(model, verifier={"reward": "judge", "judge": {"model": name, "votes": 3}})
        judge = with_verifier_models_found(config).verifier.judge
        assert judge is not None and judge.votes == 3
        return judge.model

    assert found(model.name) == found(str(model)) == str(model)
    assert found("organisation/model") == "organisation/model"


# Tokens that the model has no row for


def run_config(model: Path, **sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"model": str(model), "rollout": {"max_tokens": 8, "max_model_len": 64}, **sections}
    )


def test_a_token_beyond_the_embedding_is_refused_in_prompts_and_demonstrations(model: Path) -> None:
    tokenizer = load_tokenizer(str(model))
    tokenizer.add_tokens(["<think>"])
    config = run_config(model, objective={"name": "sft"})
    problem = Problem(id="p", prompt="1 2 = 3 :", demonstration="1 + 2")
    assert len(check_prompts(config, [problem], tokenizer)) == 1
    beyond = Problem(id="q", prompt="1 2 = 3 : <think>", demonstration="1 <think>")
    assert refusal(lambda: check_prompts(config, [problem, beyond], tokenizer)).startswith(
        f"the prompt of problem 'q' has the token 110 ('<think>'), model = '{model}' has an embedding of 110 rows: "
    )
    assert refusal(lambda: check_demonstrations(config, [beyond], tokenizer)).startswith(
        "the demonstration of problem 'q' has the token 110 ('<think>')"
    )


def test_an_argument_that_the_template_does_not_mention_is_a_warning(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"enable_thinking": False, "enable_thinkin": True}
    config = run_config(
        model, rollout={"max_tokens": 8, "max_model_len": 64, "chat": {"arguments": arguments}}
    )
    warn_of_unread_arguments(config, make_tokenizer(CHATML))
    assert capsys.readouterr().err == (
        "bonfire: warning: rollout.chat.arguments.enable_thinkin = True changes nothing: the chat template of model = "
        f"'{model}' does not mention 'enable_thinkin'; correct the name, or remove it\n"
    )


@pytest.mark.parametrize(
    ("flags", "dtypes", "told"),
    [
        ("fpu avx2 fma", ("bfloat16", "bfloat16"), "rollout.dtype and learner.dtype = "),
        ("fpu avx2 fma", ("float32", "bfloat16"), "learner.dtype = "),
        ("fpu avx2 fma", ("float32", "float32"), None),
        ("fpu avx2 avx512f avx512_bf16", ("bfloat16", "bfloat16"), None),
        ("", ("bfloat16", "bfloat16"), None),
    ],
)
def test_bfloat16_on_a_cpu_without_it_is_a_warning_with_what_to_set(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    flags: str, dtypes: tuple[str, str], told: str | None,
) -> None:  # fmt: skip
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\n" + (f"flags\t\t: {flags}\n" if flags else "Features : asimd\n"))
    monkeypatch.setattr(model_checks, "CPUINFO", cpuinfo)
    rollout, learner = dtypes
    config = run_config(
        model,
        rollout={"max_tokens": 8, "max_model_len": 64, "dtype": rollout},
        learner={"dtype": learner},
    )
    warn_of_slow_dtypes(config)
    error = capsys.readouterr().err
    if told is None:
        assert not error
    else:
        assert error.startswith(
            f"bonfire: warning: {told}'bfloat16': this machine's CPU has no instructions for it"
        )
        assert error.endswith(f"set {told.removesuffix(' = ').replace(' and ', '=float32 ')}=float32\n")
