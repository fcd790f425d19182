"""Seconds of TRL's optimizer steps on a run's model, prompts and verifier. Run by `benchmarks.peers.trl` in TRL's environment.

    python -P benchmarks/peers/trl_steps.py CONFIG STEPS MICRO_BATCH [OVERRIDE ...]

Prints one JSON line: `ends_s`, seconds from the start of training to the end of each step, and `generate_s`, of all steps. TRL's
GRPOTrainer generates with transformers, which is what it has on a machine without a GPU.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    sys.path.insert(0, str(ROOT))
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from actors.tokens import encode_prompts, load_tokenizer
    from cluster.config.parse import load_config
    from verifiers.problems.loading import load_problems
    from verifiers.process.killable import VerifierProcess

    path, steps, micro_batch, *overrides = sys.argv[1:]
    sys.path.insert(0, str(Path(path).parent))  # for a verifier beside it
    config = load_config(Path(path), overrides)
    rollout, num_steps, num_sequences = config.rollout, int(steps), int(micro_batch)
    problems = load_problems(config.problems, "train")
    tokenizer = load_tokenizer(config.model)
    prompts = encode_prompts(tokenizer, problems, rollout.chat)
    verifiers = {name: VerifierProcess(config.verifier, name) for name in config.verifier.reward_weights}

    def reward(prompts: list[str], completions: list[str], row: list[int], **others: Any) -> list[float]:
        rewards = []
        for index, completion in zip(row, completions, strict=True):
            rewards.append(
                sum(
                    weight * verifiers[name].judge(problems[index], [completion])[0].reward
                    for name, weight in config.verifier.reward_weights.items()
                )
            )
        return rewards

    ends_s: list[float] = []
    generate_s: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *arguments: Any, **others: Any) -> None:
            self.began_s = time.perf_counter()

        def on_step_end(self, *arguments: Any, **others: Any) -> None:
            ends_s.append(time.perf_counter() - self.began_s)
            print(f"TRL step {len(ends_s)}: {ends_s[-1]:.1f} s", file=sys.stderr, flush=True)

    total = config.train.groups_per_step * rollout.samples_per_prompt
    with tempfile.TemporaryDirectory() as directory:
        trainer = GRPOTrainer(
            model=config.model,
            reward_funcs=reward,
            args=GRPOConfig(
                output_dir=directory,
                use_cpu=True,
                bf16=False,  # of autocast: the whole model is in bfloat16 where engine and learner compute in it
                model_init_kwargs={"dtype": rollout.dtype, "attn_implementation": "sdpa"},
                gradient_checkpointing=False,
                per_device_train_batch_size=num_sequences,
                gradient_accumulation_steps=total // num_sequences,
                num_generations=rollout.samples_per_prompt,
                max_completion_length=rollout.max_tokens,
                temperature=rollout.temperature,
                top_k=0,
                learning_rate=config.learner.learning_rate,
                beta=0.0,
                max_steps=num_steps,
                logging_steps=1000,
                save_strategy="no",
                report_to=[],
                shuffle_dataset=False,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict(
                {"prompt": tokenizer.batch_decode(prompts), "row": list(range(len(prompts)))}
            ),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        generate = trainer.model.generate

        def timed_generate(*arguments: Any, **others: Any) -> Any:
            began_s = time.perf_counter()
            try:
                return generate(*arguments, **others)
            finally:
                generate_s.append(time.perf_counter() - began_s)

        trainer.model.generate = timed_generate
        torch.manual_seed(0)
        trainer.train()
    for process in verifiers.values():
        process.close()
    print(json.dumps({"ends_s": ends_s, "generate_s": generate_s}))


if __name__ == "__main__":
    main()
