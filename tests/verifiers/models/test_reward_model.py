"""Reward models of several architectures, against transformers in float64, one unpadded sequence at a time."""

from __future__ import annotations

import json
import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from learner.sft import PAD, VOCABULARY, build_tokenizer
from verifiers.composition import Panel
from verifiers.config import VerifierConfig
from verifiers.models.classifier_head import Head
from verifiers.models.input import fill
from verifiers.models.reward_model import RewardModel
from verifiers.models.reward_model_config import RewardModelConfig
from verifiers.types import Problem

V = len(VOCABULARY)
PROBLEM = Problem(id="p", prompt="1 2 3 : 4 =")
SPACED = {"input": "text", "template": "{prompt} {completion}"}
CHAT = (
    "{% for message in messages %}{% if message.role == 'user' %}( {{ message.content }} ) "
    "{% else %}: {{ message.content }} <eos>{% endif %}{% endfor %}"
)


def candidates(count: int, longest: int = 20, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(VOCABULARY[2:], k=rng.randint(1, longest))) for _ in range(count)]


def build(architecture: str, **settings: Any) -> Any:
    """A classifier whose logits spread over several units."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    common = {"vocab_size": V, "initializer_range": 0.3, "num_labels": 1, **settings}
    match architecture:
        case "llama":
            return LlamaForSequenceClassification(
                LlamaConfig(**small, pad_token_id=0, max_position_embeddings=64, **common)
            )
        case "gpt2":  # has no padding token
            return GPT2ForSequenceClassification(
                GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, eos_token_id=1, **common)
            )
        case "bert":
            return BertForSequenceClassification(BertConfig(**small, max_position_embeddings=64, **common))
        case "roberta":
            config = RobertaConfig(**small, pad_token_id=0, max_position_embeddings=64, **common)
            return RobertaForSequenceClassification(config)
        case "xlnet":  # reads its score at the last position
            config = XLNetConfig(d_model=32, n_layer=2, n_head=2, d_inner=48, pad_token_id=0, **common)
            return XLNetForSequenceClassification(config)
    raise ValueError(architecture)


def save(path: Path, model: Any, tokenizer: Any = None) -> str:
    model.save_pretrained(path)
    (tokenizer or build_tokenizer()).save_pretrained(path)
    return str(path)


def segment_tokenizer() -> Any:
    """`( a ) b )` for a pair, with segments 0 and 1."""
    tokenizer = build_tokenizer().backend_tokenizer
    tokenizer.post_processor = TemplateProcessing(
        single="( $A )",
        pair="( $A ) $B:1 ):1",
        special_tokens=[("(", VOCABULARY.index("(")), (")", VOCABULARY.index(")"))],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, model_input_names=names)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("reward") / "llama", build("llama"))


def ids(text: str) -> list[int]:
    return [VOCABULARY.index(word) for word in text.split()]


def make(model: str, **settings: Any) -> RewardModel:
    return RewardModel(RewardModelConfig(model=model, **SPACED, **settings), timeout_s=1.0)


def scores(verifier: RewardModel, completions: list[str], problem: Problem = PROBLEM) -> list[float]:
    verdicts = verifier.verify_batch(problem, completions)
    assert all(verdict.status == "ok" and verdict.score == verdict.reward for verdict in verdicts)
    return [verdict.score for verdict in verdicts]


@cache
def reference(path: str, dtype: torch.dtype) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype).eval()


@torch.no_grad()
def slow_logits(path: str, dtype: torch.dtype = torch.float64, **inputs: list[int]) -> list[float]:
    """One sequence, no padding."""
    rows = {name: torch.tensor([row]) for name, row in inputs.items()}
    return reference(path, dtype)(**rows).logits[0].tolist()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "roberta"])
def test_a_score_is_what_the_model_gives_the_candidate_alone(architecture, tmp_path):
    path = save(tmp_path / "model", build(architecture))
    texts = candidates(14)
    got = scores(make(path, output="logit", batch_tokens=256), texts)
    expected = [slow_logits(path, input_ids=ids(f"{PROBLEM.prompt} {text}"))[0] for text in texts]
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert max(expected) - min(expected) > 1  # they do differ


def test_a_pair_keeps_its_segments(tmp_path):
    path = save(tmp_path / "model", build("bert"), segment_tokenizer())
    texts = candidates(6)
    verifier = RewardModel(RewardModelConfig(model=path, input="pair", output="logit"), timeout_s=1.0)

    def alone(text: str, second: int) -> float:
        prompt, answer = ids(f"( {PROBLEM.prompt} )"), ids(f"{text} )")
        segments = [0] * len(prompt) + [second] * len(answer)
        return slow_logits(path, input_ids=prompt + answer, token_type_ids=segments)[0]

    got = scores(verifier, texts)
    assert got == pytest.approx([alone(text, 1) for text in texts], rel=1e-5, abs=1e-5)
    assert got != pytest.approx([alone(text, 0) for text in texts], rel=1e-3)


def test_a_model_without_padding_token_reads_a_last_token_that_could_be_padding(tmp_path):
    """Any fixed choice of a padding token would move some candidate's score to the token before its last."""
    path = save(tmp_path / "model", build("gpt2"))
    texts = [f"7 7 {token}" for token in VOCABULARY[2:]] + ["8"]
    got = scores(make(path, output="logit"), texts)
    expected = [slow_logits(path, input_ids=ids(f"{PROBLEM.prompt} {text}"))[0] for text in texts]
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_chat_template_is_rendered_once_and_nothing_is_added(tmp_path):
    tokenizer = segment_tokenizer()
    tokenizer.chat_template = CHAT
    path = save(tmp_path / "model", build("llama"), tokenizer)
    texts = candidates(5)
    expected = [slow_logits(path, input_ids=ids(f"( {PROBLEM.prompt} ) : {text} <eos>"))[0] for text in texts]
    for form in ("auto", "chat"):
        verifier = RewardModel(RewardModelConfig(model=path, input=form, output="logit"), timeout_s=1.0)
        assert scores(verifier, texts) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_model_of_our_own_is_shown_what_it_was_trained_on(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT
    path = save(tmp_path / "model", build("llama"), tokenizer)
    (tmp_path / "model" / "bonfire_verifier.json").write_text(
        json.dumps({"template": "{prompt} {completion} <eos>"})
    )
    texts = candidates(5)
    verifier = RewardModel(RewardModelConfig(model=path, output="logit"), timeout_s=1.0)
    expected = [slow_logits(path, input_ids=ids(f"{PROBLEM.prompt} {text} <eos>"))[0] for text in texts]
    assert scores(verifier, texts) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_order_does_not_matter_to_the_bit_and_equal_candidates_tie(llama):
    texts = candidates(40)
    verifier = make(llama, output="logit", batch_tokens=200)
    by_text = dict(zip(texts, scores(verifier, texts), strict=True))
    shuffled = random.Random(1).sample([*texts, *texts[:9]], 49)
    assert scores(verifier, shuffled) == [by_text[text] for text in shuffled]


def test_the_batch_a_candidate_comes_in_matters_to_rounding_only(llama):
    texts = candidates(24)
    alone = scores(make(llama, output="logit", batch_tokens=1), texts)
    for batch_tokens in (64, 300, 100_000):
        together = scores(make(llama, output="logit", batch_tokens=batch_tokens), texts)
        assert together == pytest.approx(alone, rel=0, abs=2e-5)


@pytest.mark.parametrize("label", range(3))
def test_a_softmax_score_is_the_labels_probability_or_its_log_odds(label):
    logits = torch.tensor([0.3, -1.7, 900.0 if label == 2 else 2.1], dtype=torch.float64)
    probability = torch.softmax(logits, 0)[label]
    others = torch.cat([logits[:label], logits[label + 1 :]])
    log_odds = logits[label] - torch.logsumexp(others, 0)
    head = {"label": label, "is_softmax": True}
    assert Head(**head, output="probability").score(logits.tolist()) == pytest.approx(
        float(probability), rel=1e-14
    )
    assert Head(**head, output="logit").score(logits.tolist()) == pytest.approx(float(log_odds), rel=1e-14)


@pytest.mark.parametrize("logit", [-800.0, -3.0, 0.0, 1e-9, 36.0])
def test_a_single_outputs_probability_is_its_sigmoid(logit):
    expected = float(torch.sigmoid(torch.tensor(logit, dtype=torch.float64)))
    head = Head(label=0, is_softmax=False, output="probability")
    assert head.score([logit]) == pytest.approx(expected, rel=1e-14, abs=1e-300)
    assert head.score([math.inf]) != head.score([math.inf])  # NaN, not 1


@pytest.mark.parametrize(
    ("problem_type", "label", "expected"),
    [
        (None, "good", lambda z: z[1] - math.log(math.exp(z[0]) + math.exp(z[2]))),
        (None, 2, lambda z: z[2] - math.log(math.exp(z[0]) + math.exp(z[1]))),
        ("multi_label_classification", "good", lambda z: z[1]),
        ("regression", "good", lambda z: z[1]),
    ],
)
def test_the_label_and_the_kind_of_model_decide_which_logit_counts(tmp_path, problem_type, label, expected):
    names = {0: "bad", 1: "good", 2: "other"}
    model = build("llama", num_labels=3, id2label=names, problem_type=problem_type)
    path = save(tmp_path / "model", model)
    texts = candidates(4)
    logits = [slow_logits(path, input_ids=ids(f"{PROBLEM.prompt} {text}")) for text in texts]
    got = scores(make(path, label=label, output="logit"), texts)
    assert got == pytest.approx([expected(row) for row in logits], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("setting", [None, 10])
def test_a_candidate_that_is_too_long_is_refused_never_cut(llama, setting):
    fits = (setting or 64) - len(PROBLEM.prompt.split())
    texts = ["5 " * fits, "5 " * (fits + 1), "7 8"]
    verdicts = make(llama, max_tokens=setting).verify_batch(PROBLEM, texts)
    assert [verdict.status for verdict in verdicts] == ["ok", "refused", "ok"]
    assert (verdicts[1].score, verdicts[1].reward) == (-math.inf, 0.0)
    assert [verdicts[0].score, verdicts[2].score] == scores(
        make(llama, max_tokens=setting), [texts[0], texts[2]]
    )


def test_roberta_takes_as_many_tokens_as_it_has_positions_behind_the_padding(tmp_path):
    path = save(tmp_path / "model", build("roberta"))
    verifier = RewardModel(
        RewardModelConfig(model=path, input="text", template="{completion}"), timeout_s=1.0
    )
    verdicts = verifier.verify_batch(PROBLEM, ["5 " * 63, "5 " * 64])  # 64 positions, of which 0 is padding
    assert [verdict.status for verdict in verdicts] == ["ok", "refused"]


def test_a_candidate_that_speaks_in_control_tokens_is_refused(llama):
    verdicts = make(llama).verify_batch(PROBLEM, ["7 8", "7 <eos> 8", "<pad>"])
    assert [verdict.status for verdict in verdicts] == ["ok", "refused", "refused"]


def test_what_cannot_be_shown_leaves_the_others_alone(llama):
    verifier = RewardModel(
        RewardModelConfig(model=llama, input="text", template="{completion}"), timeout_s=1.0
    )
    assert [verdict.status for verdict in verifier.verify_batch(PROBLEM, ["", "7"])] == ["refused", "ok"]
    assert verifier.verify_batch(PROBLEM, ["", "<eos>"])[1].status == "refused"
    assert verifier.verify_batch(PROBLEM, []) == []


def test_what_is_filled_in_is_not_filled_in_again():
    filled = fill("{completion}|{prompt}|{other} {}", prompt="{completion}", completion="{prompt}")
    assert filled == "{prompt}|{completion}|{other} {}"


def test_a_score_that_is_not_finite_is_the_models_fault(tmp_path):
    model = build("llama")
    with torch.no_grad():
        model.score.weight.fill_(math.inf)
    with pytest.raises(RuntimeError, match=r"gives nan to candidate 0 of problem 'p': try .*float32"):
        make(save(tmp_path / "model", model), batch_tokens=1).verify_batch(PROBLEM, ["7"])


def test_half_precision_ranks_like_full_precision(llama):
    texts = candidates(20)
    full, half = (
        scores(make(llama, output="logit"), texts),
        scores(make(llama, output="logit", dtype="bfloat16"), texts),
    )
    assert half == pytest.approx(full, abs=0.15)
    assert half != full


def test_an_architecture_that_padding_would_mislead_is_refused_unless_nothing_is_padded(tmp_path):
    path = save(tmp_path / "model", build("xlnet"))
    with pytest.raises(ValueError, match=r"scores a sequence otherwise when it is padded .*batch_tokens = 1"):
        make(path)
    texts = candidates(5)
    expected = [  # transformers' XLNet cannot compute in float64
        slow_logits(path, torch.float32, input_ids=ids(f"{PROBLEM.prompt} {text}"))[0] for text in texts
    ]
    assert scores(make(path, batch_tokens=1, output="logit"), texts) == expected


def write_causal_model(path: Path) -> str:
    config = LlamaConfig(
        vocab_size=V, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48
    )
    return save(path, LlamaForCausalLM(config))


def write_without_safetensors(path: Path) -> str:
    save(path, build("llama"))
    weights = path / "model.safetensors"
    torch.save({}, path / "pytorch_model.bin")
    weights.unlink()
    return str(path)


def write_damaged(path: Path) -> str:
    save(path, build("llama"))
    (path / "model.safetensors").write_bytes(b"not safetensors")
    return str(path)


def write_without_tokenizer(path: Path) -> str:
    build("llama").save_pretrained(path)
    return str(path)


def write(architecture: str, **settings: Any):
    return lambda path: save(path, build(architecture, **settings))


@pytest.mark.parametrize(
    ("write_model", "settings", "message"),
    [
        (str, {}, r"does not load \(.*name a directory or a hub id"),
        (
            write_causal_model,
            {},
            r"was not trained to classify sequences: 'score.weight' is not among its weights",
        ),
        (write_without_safetensors, {}, r"has no \*\.safetensors: convert"),
        (write_damaged, {}, r"does not load \("),
        (write_without_tokenizer, {}, r"does not load \("),
        (write("llama", vocab_size=V - 1), {}, rf"its tokenizer has {V} tokens, the model {V - 1}"),
        (write("llama"), {"label": 0}, r"label = 0, and .* has 1 label \(0 = 'LABEL_0'\): remove it"),
        (write("llama", num_labels=2), {}, r"label = None, and .* has 2 labels .*: set it"),
        (write("llama", num_labels=2), {"label": "good"}, r"'good' is no label .*name one of 0 = 'LABEL_0'"),
        (write("llama", problem_type="regression"), {}, r"is a regression: set output = 'logit'"),
        (write("llama"), {"max_tokens": 65}, r"max_tokens = 65 exceeds the 64 positions"),
        (write("llama"), {"revision": "main"}, r"revision = 'main' has no effect on a directory"),
        (write("llama"), {"device": "cuda"}, r"has no GPU: set verifier.num_gpus = 1"),
        (write("llama"), {"input": "chat"}, r"has no chat template: set reward_model.input"),
    ],
)
def test_a_model_that_cannot_judge_says_so_in_one_line(tmp_path, monkeypatch, write_model, settings, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = RewardModelConfig(model=write_model(tmp_path / "model"), **settings)
    with pytest.raises(ValueError, match=message) as caught:
        RewardModel(config, timeout_s=1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": "text", "template": "{prompt}"}, "leaves the candidate out"),
        ({"template": "{prompt} {completion}"}, "has no effect with input = 'auto'"),
        ({"max_length": 3}, "Extra inputs are not permitted"),
        ({"dtype": "int8"}, "'float32', 'bfloat16' or 'float16'"),
    ],
)
def test_settings_that_mean_nothing_are_errors(settings, message):
    with pytest.raises(ValidationError, match=message):
        RewardModelConfig(model="m", **settings)


def test_in_its_process_a_model_scores_as_here(llama: str) -> None:
    texts = ["1 + 2", "3 * 4 - 5", "( 1"]
    section = {"model": llama, **SPACED}
    with Panel(VerifierConfig(reward="exact_match", score="reward_model", reward_model=section)) as panel:
        verdicts = panel.judge(Problem(id="p", prompt=PROBLEM.prompt, truth={"answer": "( 1"}), texts)
    assert [verdict.reward for verdict in verdicts] == [0.0, 0.0, 1.0]
    assert [verdict.score for verdict in verdicts] == pytest.approx(scores(make(llama), texts), abs=1e-5)
