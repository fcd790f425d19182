"""Settings of the engine that tests share. Read before torch is imported."""

from __future__ import annotations

from actors.config import RolloutConfig

ENGINE = RolloutConfig(
    samples_per_prompt=8,
    max_tokens=24,
    max_model_len=96,
    max_num_seqs=64,
    kv_cache_mib=64,
    temperature=0.7,
    engine={"max_num_batched_tokens": 4096, "structured_outputs_config": {"backend": "guidance"}},
)
TIMEOUT_S = 60.0
