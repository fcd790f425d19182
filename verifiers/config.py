"""Settings of the verifiers that judge candidates."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class VerifierConfig(BaseModel):
    """Who judges the candidates, with how many workers, and within which limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        "countdown",
        min_length=1,
        description="countdown, exact_match, or package.module:function for a function of your own.",
    )
    workers: int = Field(1, ge=1, description="Verifier workers to start with.")
    num_cpus: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="CPUs that Ray reserves for each worker; 0 reserves none."
    )
    timeout_s: float = Field(
        2.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds of wall time one candidate may take before it is a timeout.",
    )
    max_candidate_chars: int = Field(
        10_000, ge=1, description="Characters above which a candidate is refused without being judged."
    )
    retries: int = Field(
        2, ge=0, description="Times a candidate is judged again after the verifier's process died on it."
    )
    heartbeat_timeout_s: float = Field(
        20.0,
        gt=1,
        allow_inf_nan=False,
        description="Seconds without a sign of life after which a worker is replaced.",
    )
