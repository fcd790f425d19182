"""`bonfire train-verifier`: what is learned, on which problems it is tested, and when it is called useful."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from click.testing import CliRunner
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from actors.types import SampleGroup, ScoredGroup
from cluster.commands.cli import cli
from cluster.commands.train_verifier import (
    NotUsefulError,
    check_test,
    open_source,
    read_samples,
    train_verifier,
)
from cluster.config.parse import parse_section
from cluster.evaluation.store import Cell, EvalStore
from cluster.evaluation.verifier_report import measure
from cluster.run_directory.record import RunRecord
from cluster.terminal.interrupts import Interrupted
from learner.verifier.config import VerifierTrainingConfig
from learner.verifier.data import collect, label, split
from learner.verifier.losses import LOSSES, draw_both, pairwise_loss, pointwise_loss
from learner.verifier.model import choose_template, encode, load_verifier, score
from learner.verifier.statistics import auc, auc_by_problem, auc_interval, best_of_k, calibration
from learner.verifier.training import train
from tests.shared.run_directories import record_trajectories
from verifiers.models.reward_model import RewardModel
from verifiers.models.reward_model_config import RewardModelConfig
from verifiers.types import Problem

WORDS = ("+", "-", "/", "(", ")", *map(str, range(10)))
QUICK = VerifierTrainingConfig(
    steps=60,
    warmup_steps=5,
    problems_per_step=16,
    samples_per_problem=8,
    learning_rate=3e-3,
    validate_every=20,
)


def candidates(num_problems: int, num_samples: int, seed: int = 0, *, by_chance: bool = False):
    """(prompt, completion, is correct): correct is what has a `*` in it, or nothing that a text could tell."""
    rng = np.random.default_rng(seed)
    for number in range(num_problems):
        prompt = f"{number % 90 + 1} {number // 90 + 1} 7 8 = {10 + number % 89} :"
        for _ in range(num_samples):
            words = rng.choice(WORDS, rng.integers(2, 8)).tolist()
            is_correct = rng.random() < 0.3
            if is_correct and not by_chance:
                words[rng.integers(len(words))] = "*"
            yield prompt, " ".join(words), bool(is_correct)


def scored_groups(samples) -> tuple[list[Problem], list[ScoredGroup]]:
    """The samples as a run or an evaluation keeps them."""
    by_prompt: dict[str, list[tuple[str, bool]]] = {}
    for prompt, completion, is_correct in samples:
        by_prompt.setdefault(prompt, []).append((completion, is_correct))
    problems = [Problem(id=f"p{number}", prompt=prompt) for number, prompt in enumerate(by_prompt)]
    groups = []
    for number, pairs in enumerate(by_prompt.values()):
        n, rewards = len(pairs), np.array([float(is_correct) for _, is_correct in pairs])
        group = SampleGroup(
            group=number, problem_id=f"p{number}", workers=("rollout-0",) * n, seed=0,
            prompt_token_ids=np.array([11, 12], np.int32), offsets=np.arange(n + 1, dtype=np.int32),
            token_ids=np.ones(n, np.int32), logprobs=np.zeros(n, np.float32), versions=np.zeros(n, np.int32),
            texts=tuple(text for text, _ in pairs), finish_reasons=("stop",) * n,
        )  # fmt: skip
        scored = ScoredGroup(
            samples=group, scores=rewards, rewards=rewards, statuses=("ok",) * n, answers=(None,) * n,
            latencies_s=np.zeros(n, np.float32),
        )  # fmt: skip
        groups.append(scored)
    return problems, groups


def write_run(directory: Path, model: Path, samples) -> Path:
    problems, groups = scored_groups(samples)
    record = RunRecord(directory)
    half = len(groups) // 2
    for step, part in enumerate((groups[:half], groups[half:]), 1):
        record_trajectories(record, step, part, np.ones((len(part), len(part[0].rewards))))
    path = directory / "train.jsonl"
    rows = [{"id": p.id, "prompt": p.prompt, "answer": ""} for p in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": str(model),
        "problems": {"source": "files", "train_path": str(path), "prompt_field": "prompt", "id_field": "id"},
        "verifier": {"reward": "exact_match"},
    }
    (directory / "config.toml").write_text(tomli_w.dumps(settings))
    return directory


def write_evaluation(directory: Path, model: Path, samples) -> Path:
    problems, groups = scored_groups(samples)
    cell = Cell(model="base", temperature=1.0)
    with EvalStore(directory, {"samples_per_problem": len(groups[0].rewards)}, problems) as store:
        store.add_model("base", str(model), "fingerprint")
        for index, group in enumerate(groups):
            store.put(cell, index, group)
        store.finish(cell)
    return directory


# ------------------------------------------------------------------------------------------------ data


def test_equal_completions_of_a_prompt_are_one_entry_that_keeps_count():
    (first, second) = collect(
        [("p", "b", True), ("q", "b", False), ("p", "a", False), ("p", "b", False), ("p", "b", True)]
    )
    assert (first.prompt, first.completions) == ("p", ("a", "b"))
    assert first.counts_C.tolist() == [1, 3] and first.correct_C.tolist() == [0, 2]
    assert first.labels_C.tolist() == [0.0, 2 / 3]
    assert first.labels_N.tolist() == [0, 1, 1, 0] and first.per_sample(np.array([5, 6])).tolist() == [
        5,
        6,
        6,
        6,
    ]
    assert first.is_mixed and not second.is_mixed


def test_the_split_is_by_problem_complete_and_the_same_in_any_order_of_samples():
    samples = list(candidates(200, 3))
    problems = collect(samples)
    parts = split(problems, validation_share=0.1, test_share=0.2, seed=3)
    prompts = [{problem.prompt for problem in part} for part in (parts.train, parts.validation, parts.test)]
    assert [len(part) for part in prompts] == [140, 20, 40]
    assert set.union(*prompts) == {problem.prompt for problem in problems}
    again = split(collect(samples[::-1]), validation_share=0.1, test_share=0.2, seed=3)
    assert [p.prompt for p in again.test] == [p.prompt for p in parts.test]
    other = split(problems, validation_share=0.1, test_share=0.2, seed=4)
    assert {p.prompt for p in other.test} != prompts[2]


def test_graded_rewards_need_a_threshold():
    assert label(np.array([0.0, 0.5, 0.7]), 0.5).tolist() == [False, False, True]
    assert label(np.array([0.0, 1.0]), None).tolist() == [False, True]
    with pytest.raises(ValueError, match=r"reward 0\.7.*label_threshold"):
        label(np.array([1.0, 0.7]), None)


def test_runs_and_evaluations_hold_the_same_samples(tmp_path, tiny_model):
    samples = list(candidates(7, 4))
    from_run = open_source(write_run(tmp_path / "run", tiny_model, samples))
    from_evaluation = open_source(write_evaluation(tmp_path / "evaluation", tiny_model, samples))
    expected = collect(samples)
    for source in (from_run, from_evaluation):
        assert source.models == {str(tiny_model)}
        for problem, wanted in zip(read_samples([source], None), expected, strict=True):
            assert (problem.prompt, problem.completions) == (wanted.prompt, wanted.completions)
            assert problem.correct_C.tolist() == wanted.correct_C.tolist()
    assert read_samples([from_run, from_evaluation], None)[0].num_samples == 8


# ---------------------------------------------------------------------------------------------- losses


def loss_case(seed: int):
    generator = torch.Generator().manual_seed(seed)
    problems = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    logits = torch.randn(8, generator=generator, dtype=torch.float64)
    labels = torch.tensor([1.0, 0, 1 / 3, 0, 1, 0, 0, 0], dtype=torch.float64)
    return logits, labels, problems


def test_the_pointwise_loss_is_a_mean_of_cross_entropies_per_problem():
    logits, labels, problems = loss_case(0)
    slow = 0.0
    for problem in range(3):
        chosen = [i for i in range(8) if problems[i] == problem]
        for i in chosen:
            p = 1 / (1 + math.exp(-logits[i]))
            slow -= (labels[i] * math.log(p) + (1 - labels[i]) * math.log(1 - p)) / len(chosen)
    assert float(pointwise_loss(logits, labels, problems)) == pytest.approx(float(slow), abs=1e-12)


def test_the_pairwise_loss_is_a_mean_over_pairs_per_problem_and_no_pair_is_no_loss():
    logits, labels, problems = loss_case(1)
    slow = 0.0
    for problem in range(3):
        chosen = [i for i in range(8) if problems[i] == problem]
        pairs = [(labels[i] * (1 - labels[j]), logits[i] - logits[j]) for i in chosen for j in chosen]
        total = sum(weight for weight, _ in pairs)
        if total > 0:
            slow += sum(weight * math.log(1 + math.exp(-margin)) for weight, margin in pairs) / total
    assert float(pairwise_loss(logits, labels, problems)) == pytest.approx(float(slow), abs=1e-12)


def test_the_pairwise_loss_does_not_see_what_a_problem_s_candidates_have_in_common():
    logits, labels, problems = loss_case(2)
    shifted = logits + torch.tensor([3.0, -7.0, 1.0], dtype=torch.float64)[problems]
    assert float(pairwise_loss(shifted, labels, problems)) == pytest.approx(
        float(pairwise_loss(logits, labels, problems)), abs=1e-12
    )


@pytest.mark.parametrize(
    ("num_correct", "num_wrong", "drawn"), [(1, 20, (1, 7)), (20, 1, (7, 1)), (9, 9, (4, 4)), (2, 3, (2, 3))]
)
def test_a_draw_for_pairs_holds_both_labels(num_correct, num_wrong, drawn):
    labels = np.array([1.0] * num_correct + [0.0] * num_wrong)
    chosen = draw_both(labels, 8, np.random.default_rng(0))
    assert (labels[chosen].sum(), (1 - labels[chosen]).sum()) == drawn and len(set(chosen)) == len(chosen)


# ------------------------------------------------------------------------------------------ statistics


def ragged(seed: int, num_problems: int = 6):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 7, num_problems)
    scores = [rng.choice([-np.inf, 0.0, 1.0, 2.5], size) for size in sizes]
    return scores, [rng.integers(0, 2, size).astype(float) for size in sizes]


def slow_auc(scores, labels, weights) -> float:
    won = pairs = 0.0
    for i, j in itertools.product(range(len(scores)), repeat=2):
        weight = weights[i] * weights[j] * labels[i] * (1 - labels[j])
        pairs += weight
        won += weight * (0.5 if scores[i] == scores[j] else float(scores[i] > scores[j]))
    return won / pairs


def test_auc_is_the_share_of_pairs_in_the_right_order_with_ties_refusals_and_weights():
    scores, labels = (np.concatenate(part) for part in ragged(0))
    weights = np.random.default_rng(1).integers(0, 3, (5, len(scores))).astype(float)
    expected = [slow_auc(scores, labels, row) for row in weights]
    assert auc(scores, labels, weights) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(auc(scores, np.ones_like(scores), weights)).all()


def test_the_interval_of_the_auc_resamples_whole_problems():
    rng = np.random.default_rng(0)
    sizes = [20] * 40
    scores = [rng.normal(size=size) + 1.0 for size in sizes]
    labels = [np.full(size, float(number % 2)) for number, size in enumerate(sizes)]
    scores = [
        row + 3 * (label.mean() - 0.5) + rng.normal() for row, label in zip(scores, labels, strict=True)
    ]
    mean, low, high = auc_interval(scores, labels, seed=0)
    assert mean == pytest.approx(
        slow_auc(np.concatenate(scores), np.concatenate(labels), np.ones(800)), abs=1e-12
    )
    rows = [[s[:1] for s in part] for part in (scores, labels)]  # one sample of each problem says as much
    _, low_of_one, high_of_one = auc_interval(*rows, seed=0)
    assert low < mean < high and 0.4 < (high - low) / (high_of_one - low_of_one) < 1.6


def test_the_auc_of_a_problem_ignores_the_others_and_is_missing_with_one_label():
    values = auc_by_problem(
        [np.array([1.0, 2.0, 0.0]), np.array([3.0, 4.0])], [np.array([0.0, 1, 0]), np.ones(2)]
    )
    assert values[0] == 1.0 and math.isnan(values[1])


def test_best_of_k_is_the_mean_over_all_subsets_with_ties_averaged():
    scores, labels = ragged(3)
    values = best_of_k(scores, labels, (1, 2, 4))
    for p, (row, truth) in enumerate(zip(scores, labels, strict=True)):
        for column, k in enumerate((1, 2, 4)):
            subsets = [list(subset) for subset in itertools.combinations(range(len(row)), k)]
            best = [truth[s][row[s] == row[s].max()].mean() for s in subsets]
            assert values["verifier"][p, column] == pytest.approx(np.mean(best), abs=1e-12)
            assert values["oracle"][p, column] == pytest.approx(np.mean([truth[s].max() for s in subsets]))
            assert values["chance"][p, column] == pytest.approx(truth.mean(), abs=1e-12)


def test_calibration_by_hand():
    found = calibration(np.array([0.1, 0.1, 0.1, 0.9, 0.9, 0.9]), np.array([0.0, 0, 1, 1, 1, 1]), num_bins=2)
    assert found.counts == (3, 3)
    assert found.mean_probabilities == pytest.approx((0.1, 0.9))
    assert found.shares_correct == pytest.approx((1 / 3, 1.0))
    assert found.expected_error == pytest.approx((1 / 3 - 0.1 + 0.1) / 2)
    assert found.brier == pytest.approx((2 * 0.01 + 0.81 + 3 * 0.01) / 6)
    assert found.brier_of_base_rate == pytest.approx((4 / 6) * (2 / 6))


@pytest.mark.parametrize(
    ("noise", "fault"), [(0.1, None), (math.inf, "Best-of-8 less chance"), (-0.1, "AUC within a problem")]
)
def test_only_a_verifier_better_than_chance_is_called_useful(noise, fault):
    problems = collect(candidates(60, 8))
    rng = np.random.default_rng(0)
    scale = 0.0 if math.isinf(noise) else math.copysign(1.0, noise)
    scores = [scale * problem.labels_C + 0.1 * rng.normal(size=len(problem.labels_C)) for problem in problems]
    quality = measure(problems, scores, (1, 8), seed=0)
    if fault is None:
        assert quality.faults == () and quality.verdict.startswith("USEFUL: Best-of-8")
        assert quality.gain[8].mean == pytest.approx(
            quality.curves["verifier"][8].mean - quality.curves["chance"][8].mean
        )
    else:
        assert fault in quality.verdict and quality.verdict.startswith("not useful: ")


# ------------------------------------------------------------------------------------------- the model


def test_the_template_keeps_the_tokens_that_were_sampled(tiny_model):
    problems = collect(candidates(5, 4))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    template = choose_template(tokenizer, problems)
    assert template == "{prompt} {completion}<eos>"
    verifier = load_verifier(str(tiny_model), QUICK, problems)
    problem = problems[0]
    ids = [tokenizer(text).input_ids for text in (problem.prompt, problem.completions[0])]
    assert encode(verifier, problems)[0].token_ids[0].tolist() == [*ids[0], *ids[1], tokenizer.eos_token_id]


def test_a_candidate_s_logit_does_not_depend_on_its_batch_and_a_refused_one_is_never_chosen(tiny_model):
    problems = collect(
        [*candidates(6, 5), ("1 2 = 3 :", "1 <eos> 2", False), ("1 2 = 3 :", " ".join("9" * 30), True)]
    )
    config = QUICK.model_copy(update={"max_length": 20})
    verifier = load_verifier(str(tiny_model), config, problems)
    torch.manual_seed(0)
    torch.nn.init.normal_(verifier.model.score.weight)
    together, apart = score(verifier, problems, 4096), score(verifier, problems, 1)
    for problem, one, other in zip(problems, together, apart, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
        for completion, logit in zip(problem.completions, one, strict=True):
            if problem.prompt == "1 2 = 3 :":
                assert logit == -math.inf
                continue
            ids = verifier.tokenizer(f"{problem.prompt} {completion} <eos>", return_tensors="pt").input_ids
            with torch.no_grad():
                hidden = verifier.model.model(ids).last_hidden_state[0, -1]
            assert logit == pytest.approx((hidden @ verifier.model.score.weight[0]).item(), abs=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_micro_batches_change_the_memory_and_not_the_result(tiny_model, loss):
    problems = collect(candidates(12, 8))
    weights = []
    for micro_batch_tokens in (100_000, 1):
        config = QUICK.model_copy(update={"steps": 3, "loss": loss, "micro_batch_tokens": micro_batch_tokens})
        verifier = load_verifier(str(tiny_model), config, problems)
        encoded = encode(verifier, problems)
        train(verifier, encoded[:8], encoded[8:], config)
        weights.append(verifier.model.score.weight.detach().clone())
    assert weights[0].abs().max() > 1e-3
    assert torch.allclose(weights[0], weights[1], atol=2e-5)


def test_training_repeats_to_the_bit_and_ends_at_the_step_that_validates_best(tiny_model):
    problems = collect(candidates(24, 8, by_chance=True))
    config = QUICK.model_copy(update={"validate_every": 4, "steps": 16})
    runs = []
    for _ in range(2):
        verifier = load_verifier(str(tiny_model), config, problems)
        encoded = encode(verifier, problems)
        after: dict[int, dict[str, torch.Tensor]] = {}

        def note(step, validated, model=verifier.model, after=after):
            after[step] = {name: one.clone() for name, one in model.state_dict().items()}

        runs.append(
            (train(verifier, encoded[:16], encoded[16:], config, on_step=note), after, verifier.model)
        )
    (training, after, model), (training_again, after_again, _) = runs
    for step, weights in after.items():
        assert all(torch.equal(weights[name], after_again[step][name]) for name in weights)
    losses = {one.step: one.validation_loss for one in training.history}
    assert losses == {one.step: one.validation_loss for one in training_again.history}
    assert list(losses) == [4, 8, 12, 16]
    best = min(losses, key=losses.__getitem__)
    assert training.best_step == best < 16  # labels by chance cannot be learned, only overfitted
    assert all(torch.equal(one, after[best][name]) for name, one in model.state_dict().items())


# --------------------------------------------------------------------------------------------- the whole


@pytest.mark.parametrize("loss", LOSSES)
def test_what_a_text_tells_is_learned_and_the_checkpoint_serves_as_reward_model(tmp_path, tiny_model, loss):
    source = write_evaluation(tmp_path / "evaluation", tiny_model, candidates(120, 16))
    config = QUICK.model_copy(update={"loss": loss, "steps": 50})
    train_verifier([source], tmp_path / "out", None, config)

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"].startswith("USEFUL: Best-of-16")
    assert report["quality"]["auc"]["mean"] > 0.95 and report["quality"]["auc_within_problems"]["low"] > 0.95
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000
    counts = report["data"]
    assert [counts[part]["problems"] for part in ("train", "validation", "test")] == [84, 12, 24]

    model = tmp_path / "out" / "model"
    classifier = AutoModelForSequenceClassification.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert (
        classifier.config.num_labels == 1 and classifier.config.problem_type == "multi_label_classification"
    )
    prompt, right, wrong = "3 4 7 8 = 12 :", "3 * 4 + 5", "3 - 4 + 5"
    served = RewardModel(RewardModelConfig(model=str(model)), timeout_s=1.0)
    verdicts = served.verify_batch(Problem(id="p", prompt=prompt), [right, wrong])
    for text, verdict in zip((right, wrong), verdicts, strict=True):
        ids = tokenizer(f"{prompt} {text} <eos>", return_tensors="pt")
        with torch.no_grad():
            probability = classifier(**ids).logits.sigmoid().item()
        assert verdict.score == pytest.approx(probability, abs=1e-5)
    assert verdicts[0].score > verdicts[1].score


def test_labels_by_chance_make_no_useful_verifier_and_it_is_written_all_the_same(tmp_path, tiny_model):
    source = write_run(tmp_path / "run", tiny_model, candidates(120, 8, by_chance=True))
    with pytest.raises(NotUsefulError, match=r"^not useful: .*; it is in .*out/model all the same$"):
        train_verifier([source], tmp_path / "out", None, QUICK.model_copy(update={"steps": 20}))
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    record = json.loads((tmp_path / "out" / "model" / "bonfire_verifier.json").read_text())
    assert record["template"] == "{prompt} {completion}<eos>" and record["verdict"].startswith("not useful")


def test_an_interrupt_ends_the_training_and_leaves_nothing(tmp_path, tiny_model):
    source = write_run(tmp_path / "run", tiny_model, candidates(120, 8))
    before = signal.getsignal(signal.SIGINT)

    def interrupt_when_handled() -> None:
        deadline_s = time.monotonic() + 60
        while signal.getsignal(signal.SIGINT) is before and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if signal.getsignal(signal.SIGINT) is not before:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_when_handled)
    thread.start()
    with pytest.raises(Interrupted, match=r"^stopped at step \d+ of 1000000; nothing was written$"):
        train_verifier([source], tmp_path / "out", None, QUICK.model_copy(update={"steps": 1_000_000}))
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# ---------------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_one_line_that_names_them(tmp_path, tiny_model):
    def fails(match: str, *sources: Path, out: Path = tmp_path / "out", model: str | None = None) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            train_verifier(sources, out, model, QUICK)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    run = write_run(tmp_path / "run", tiny_model, candidates(30, 4))
    empty = write_run(tmp_path / "empty", tiny_model, candidates(30, 4))
    for path in (empty / "trajectories").iterdir():
        path.unlink()
    wrong = write_run(tmp_path / "wrong", tiny_model, [(p, c, False) for p, c, _ in candidates(30, 4)])
    other = write_evaluation(tmp_path / "other", tmp_path / "elsewhere", candidates(30, 4))
    fails("neither a run .* nor an evaluation", tmp_path)
    fails("holds no samples yet", empty)
    fails("all 120 samples are wrong", wrong)
    fails("2 models .*--model", run, other)
    fails("of the 6 held-out problems have correct and wrong samples.*raise test_share", run)
    fails("run exists", run, out=run)
    (run / "trajectories" / "step-000002.parquet").write_text("not Parquet")
    fails(r"step-000002\.parquet cannot be read", run)
    (run / "train.jsonl").write_text('{"id": "p0", "prompt": "1 2 = 3 :", "answer": ""}\n')
    fails("problem 'p1', which the problems of .* no longer hold", run)


def test_a_limit_that_refuses_every_candidate_is_named(tiny_model):
    problems = collect(candidates(6, 8))
    config = QUICK.model_copy(update={"max_length": 7})  # a prompt's length
    verifier = load_verifier(str(tiny_model), config, problems)
    with pytest.raises(ValueError, match="none of the 4 training problems has a candidate within max_length"):
        train(verifier, encode(verifier, problems[:4]), encode(verifier, problems[4:]), config)
    with pytest.raises(ValueError, match="max_length = 100000 exceeds the 128 positions"):
        load_verifier(str(tiny_model), config.model_copy(update={"max_length": 100_000}), problems)


def test_ks_beyond_the_samples_are_left_out():
    problems = collect(candidates(200, 6))
    parts = split(problems, validation_share=0.1, test_share=0.5, seed=0)
    assert check_test(parts, (1, 2, 4, 8, 16)) == (1, 2, 4)
    with pytest.raises(ValueError, match=r"no k from 2 to 6"):
        check_test(parts, (1, 8))


def test_the_command_line_passes_sources_and_settings_on(tmp_path):
    arguments = ["train-verifier", str(tmp_path), "--out", str(tmp_path / "out")]
    mistake = CliRunner().invoke(cli, [*arguments, "--set", "step=3"]).exception
    assert str(mistake) == "step is not a setting (did you mean steps?); remove it or see `bonfire settings`"
    assert "neither a run" in str(CliRunner().invoke(cli, [*arguments, "--set", "steps=3"]).exception)


def test_settings_are_checked_by_name():
    assert parse_section(VerifierTrainingConfig, ["loss=pairwise", "ks=[1,4]"]).ks == (1, 4)
    for setting, message in {
        "lost=1": r"lost is not a setting \(did you mean loss\?\)",
        "steps=0": "steps = 0: input should be greater",
        "template={prompt}": "template = '{prompt}' leaves a part out",
        "ks=[2,1]": r"ks = \[2, 1\]",
        "test_share=0.95": "leave no problems to train on",
    }.items():
        with pytest.raises(ValueError, match=message):
            parse_section(VerifierTrainingConfig, [setting])
