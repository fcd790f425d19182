"""The countdown base model: its tokenizer, what is learned from, and a run that repeats."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from actors.weights.fingerprint import param_fingerprint
from learner.model.causal_lm import load_model
from learner.sft import (
    EOS,
    PAD,
    VOCABULARY,
    build_model,
    build_tokenizer,
    completion_loss,
    learning_rate,
    tokenise,
    train_base,
)
from learner.supervised.config import SftConfig
from verifiers.countdown.puzzles import demonstrations

TINY = SftConfig(
    num_demonstrations=300,
    steps=60,
    schedule_steps=90,
    warmup_steps=10,
    batch_size=32,
    hidden_size=64,
    num_layers=1,
    num_heads=2,
    intermediate_size=64,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sft") / "base"
    progress = []
    train_base(TINY, directory, progress.append)
    return directory, progress


def test_every_symbol_and_number_is_one_token_and_decodes_with_spaces(trained):
    tokenizer = AutoTokenizer.from_pretrained(trained[0])
    prompt = "3 15 7 2 = 99 :"
    assert tokenizer(prompt).input_ids == [VOCABULARY.index(word) for word in prompt.split()]
    completion = tokenizer("( 3 + 15 ) * 7 / 2 <eos>", add_special_tokens=False).input_ids
    assert tokenizer.decode(completion, skip_special_tokens=True) == "( 3 + 15 ) * 7 / 2"
    assert (tokenizer.eos_token, tokenizer.pad_token) == (EOS, PAD)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0)
    assert len(tokenizer) == len(VOCABULARY) == 110
    assert GenerationConfig.from_pretrained(trained[0]).eos_token_id == 1


def test_who_may_read_the_models_config_may_read_its_weights(trained):
    modes = [(trained[0] / name).stat().st_mode for name in ("config.json", "model.safetensors")]
    assert modes[0] == modes[1]


def test_a_word_outside_the_vocabulary_is_an_error_and_not_a_token():
    with pytest.raises(Exception, match="UNK"):
        build_tokenizer()("3 100")


def test_demonstrations_are_prompt_completion_and_end():
    tokenizer = build_tokenizer()
    data = tokenise(tokenizer, TINY)
    for row, (prompt, completion) in enumerate(demonstrations(300, TINY.seed, TINY.corruption)):
        expected = [VOCABULARY.index(word) for word in f"{prompt} {completion} {EOS}".split()]
        assert data.token_ids_DL[row, : data.lengths_D[row]].tolist() == expected
        assert set(data.token_ids_DL[row, data.lengths_D[row] :].tolist()) <= {VOCABULARY.index(PAD)}
        assert data.prompt_lengths_D[row] == len(prompt.split())


def test_the_loss_is_the_mean_over_completion_tokens_of_a_slow_transcription():
    torch.manual_seed(0)
    model = build_model(TINY)
    data = tokenise(build_tokenizer(), TINY)
    chosen = torch.tensor([5, 17, 101, 5])
    negative_log_likelihoods = []
    for row in chosen.tolist():
        ids = data.token_ids_DL[row, : data.lengths_D[row]]
        log_softmax = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for position in range(int(data.prompt_lengths_D[row]), len(ids)):
            negative_log_likelihoods.append(-log_softmax[position - 1, ids[position]].item())
    expected = sum(negative_log_likelihoods) / len(negative_log_likelihoods)
    assert completion_loss(model, data, chosen).item() == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_warms_up_and_follows_the_cosine_to_its_floor():
    config = SftConfig()
    assert learning_rate(0, config) == pytest.approx(2e-3 / 100)
    assert learning_rate(99, config) == pytest.approx(
        2e-3 * (0.05 + 0.475 * (1 + math.cos(math.pi * 99 / 1500)))
    )
    assert learning_rate(750, config) == pytest.approx(2e-3 * 0.525)
    assert learning_rate(1500, config) == learning_rate(9999, config) == pytest.approx(2e-3 * 0.05)


def test_the_default_model_has_the_size_that_was_studied():
    assert sum(parameter.numel() for parameter in build_model(SftConfig()).parameters()) == 353_568


def test_training_lowers_the_loss_and_reports_on_the_way(trained):
    _, progress = trained
    assert [report.step for report in progress] == [50, 60]
    assert progress[-1].loss < math.log(110) - 1.5


def test_the_same_config_gives_the_same_weights(trained, tmp_path):
    torch.manual_seed(123)
    train_base(TINY, tmp_path / "again", lambda _: None)
    first, second = (load_model(str(directory)) for directory in (trained[0], tmp_path / "again"))
    assert param_fingerprint(first.named_parameters()) == param_fingerprint(second.named_parameters())


def test_an_existing_directory_is_never_overwritten(trained):
    with pytest.raises(ValueError, match="exists: name a new one"):
        train_base(TINY, trained[0], lambda _: None)


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", fail)
    with pytest.raises(KeyboardInterrupt):
        train_base(TINY, tmp_path / "base", lambda _: None)
    assert list(tmp_path.iterdir()) == []
