"""Settings of the verifier that runs a candidate's Python against a problem's tests."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PythonTestsConfig(BaseModel):
    """What a candidate's program may use; its wall time is `verifier.timeout_s`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partial: bool = Field(
        False,
        description="Score a candidate by the fraction of tests that it passes (MBPP's asserts; HumanEval's "
        "check is one test). The reward stays 1 for all of them and 0 else.",
    )
    memory_mib: int = Field(256, ge=64, description="Address space of each of its processes, in MiB.")
    max_processes: int = Field(8, ge=1, le=1024, description="Processes and threads it may have at a time.")
    file_mib: int = Field(16, ge=1, description="What it may write, all files together, in MiB of memory.")
    output_kib: int = Field(
        4096,
        ge=1,
        le=16384,
        description="Size of a single value that it returns, as sent to its tests, and of what a program prints, "
        "in KiB. What is larger is `too_large`, not wrong.",
    )
    cpu_s: int | None = Field(
        None,
        ge=1,
        description="CPU time of each of its processes, in seconds; by default a second more than timeout_s.",
    )
    trusted_candidates: bool = Field(
        False,
        description="Candidates run without isolation, as the user who runs Bonfire: they can read and "
        "delete files, use the network, and stop their tests. For machines without bubblewrap.",
    )
