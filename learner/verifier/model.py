"""A causal language model as a verifier: a head of one logit on the last token of prompt and completion.

Shapes: `S` sequences of a batch, of at most `L` tokens; `C` distinct candidates of one problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from actors.model_files import check_settings
from actors.tokens import load_tokenizer
from learner.model.causal_lm import resolve_model
from learner.model.tensor_files import let_read_as
from learner.verifier.config import VerifierTrainingConfig
from learner.verifier.data import LabelledProblem
from verifiers.models.input import control_tokens, fill

TEMPLATES = ("{prompt}{completion}", "{prompt} {completion}")
NUM_TEMPLATE_TRIALS = 64
HEAD = {"score.weight"}
"""What a causal checkpoint lacks of a classifier."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verifier:
    """A classifier with what turns a prompt and a completion into its input."""

    model: Any
    tokenizer: Any
    template: str

    @property
    def max_length(self) -> int:
        """Tokens above which a candidate is refused."""
        return self.tokenizer.model_max_length

    def save(self, directory: Path) -> None:
        """Write a transformers checkpoint in safetensors, tokenizer included."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        let_read_as(directory / "config.json", directory)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedProblem:
    """A problem's distinct candidates as the model reads them, less those that it refuses."""

    token_ids: tuple[np.ndarray, ...]  # int64 each
    labels_C: np.ndarray  # float64 in [0, 1]
    places_C: np.ndarray  # int64, among the problem's completions


def load_verifier(base: str, config: VerifierTrainingConfig, problems: Sequence[LabelledProblem]) -> Verifier:
    """The base model, float32, with a head of zeros: every candidate has logit 0.

    `problems` decide the template where the config names none. Raises ValueError for a checkpoint that does not
    load, has no classifier's architecture, or no token to pad with, and for settings that it has no room for.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    directory = resolve_model(base)
    check_settings(directory)
    tokenizer = load_tokenizer(str(directory))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ValueError(
            f"model = {base!r} has neither padding nor end-of-sequence token: add one to its tokenizer"
        )
    tokenizer.padding_side = "right"
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # the head is new, and the language model's is left out: so it should be
    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            directory,
            num_labels=1,
            problem_type="multi_label_classification",  # transformers' name for independent sigmoids
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"model = {base!r} does not load as a classifier: {(str(error).splitlines() or [repr(error)])[0]}"
        ) from error
    missing = set(loaded["missing_keys"])
    if missing - HEAD:
        raise ValueError(
            f"model = {base!r} lacks {min(missing - HEAD)!r} among its weights: it is incomplete"
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in missing:
                parameter.zero_()
    text_config = model.config.get_text_config()
    text_config.pad_token_id = tokenizer.pad_token_id  # the head reads the last token that is another
    positions = getattr(text_config, "max_position_embeddings", None) or tokenizer.model_max_length
    if config.max_length is not None and config.max_length > positions:
        raise ValueError(
            f"max_length = {config.max_length} exceeds the {positions} positions of model = {base!r}: lower it"
        )
    tokenizer.model_max_length = config.max_length or positions  # the verifier `reward_model` reads it there
    return Verifier(
        model=model.eval().to(_find_device(config.device)),  # without dropout; gradients all the same
        tokenizer=tokenizer,
        template=config.template or choose_template(tokenizer, problems),
    )


def choose_template(tokenizer: Any, problems: Sequence[LabelledProblem]) -> str:
    """The first of TEMPLATES that most often keeps the tokens of prompt and completion as they are on their own.

    The end-of-sequence token follows: a verifier cannot know whether the text was cut.
    """
    pairs = [(problem.prompt, problem.completions[0]) for problem in problems[:NUM_TEMPLATE_TRIALS]]

    def num_kept(template: str) -> int:
        return sum(_keeps_tokens(tokenizer, template, prompt, completion) for prompt, completion in pairs)

    return max(TEMPLATES, key=num_kept) + (tokenizer.eos_token or "")


def encode(verifier: Verifier, problems: Sequence[LabelledProblem]) -> list[EncodedProblem]:
    """Token ids of the candidates, with no special tokens but the template's and the tokenizer's own.

    Like the verifier `reward_model`, it refuses a candidate that is longer than max_length or spells a control token.
    Raises ValueError for a text that the tokenizer cannot read.
    """
    encoded = []
    forbidden = control_tokens(verifier.tokenizer)
    for problem in problems:
        texts = [
            fill(verifier.template, prompt=problem.prompt, completion=completion)
            for completion in problem.completions
        ]
        try:
            ids = verifier.tokenizer(texts, verbose=False).input_ids
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise ValueError(
                f"template = {verifier.template!r} makes a text that the model's tokenizer cannot read ({error}), "
                f"as {texts[0]!r}: set another template or model"
            ) from error
        places_C = np.flatnonzero(
            [
                len(one) <= verifier.max_length and not forbidden.search(completion)
                for one, completion in zip(ids, problem.completions, strict=True)
            ]
        )
        encoded.append(
            EncodedProblem(
                token_ids=tuple(np.array(ids[place], np.int64) for place in places_C),
                labels_C=problem.labels_C[places_C],
                places_C=places_C,
            )
        )
    return encoded


def score(verifier: Verifier, problems: Sequence[LabelledProblem], max_tokens: int) -> list[np.ndarray]:
    """Of each problem, the logit of every distinct completion, float64; -inf for one that is refused.

    Computed in float32, in batches of at most `max_tokens` positions that may hold many problems.
    """
    encoded = encode(verifier, problems)
    scores = [np.full(len(problem.completions), -np.inf) for problem in problems]
    waiting = [
        (ids, scores[number], place)
        for number, problem in enumerate(encoded)
        for ids, place in zip(problem.token_ids, problem.places_C, strict=True)
    ]
    waiting.sort(key=lambda one: len(one[0]), reverse=True)  # the first of a batch is its width
    while waiting:
        size = max(1, max_tokens // len(waiting[0][0]))
        batch, waiting = waiting[:size], waiting[size:]
        with torch.no_grad():
            logits_S = logits(verifier, [ids for ids, _, _ in batch])
        for (_, own, place), logit in zip(batch, logits_S.double().tolist(), strict=True):
            own[place] = logit
    return scores


def logits(verifier: Verifier, sequences: Sequence[np.ndarray]) -> Tensor:
    """float32 [S], at the last token of each that is no padding."""
    model = verifier.model
    lengths_S = torch.tensor([len(ids) for ids in sequences])
    token_ids_SL = torch.full((len(sequences), int(lengths_S.max())), verifier.tokenizer.pad_token_id)
    mask_SL = torch.arange(token_ids_SL.shape[1]) < lengths_S[:, None]
    token_ids_SL[mask_SL] = torch.from_numpy(np.concatenate(sequences))
    inputs = {"input_ids": token_ids_SL.to(model.device), "attention_mask": mask_SL.long().to(model.device)}
    return model(**inputs).logits[:, 0].float()


def _find_device(device: str) -> str:
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("device = 'cuda', and torch finds no GPU here: set device = 'cpu' or 'auto'")
    return "cuda" if has_gpu and device != "cpu" else "cpu"


def _keeps_tokens(tokenizer: Any, template: str, prompt: str, completion: str) -> bool:
    try:
        whole = tokenizer(
            fill(template, prompt=prompt, completion=completion), add_special_tokens=False
        ).input_ids
        parts = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, completion)]
    except Exception:  # noqa: BLE001 - a word-level tokenizer raises this for a word it does not know
        return False
    return whole == [*parts[0], *parts[1]]
