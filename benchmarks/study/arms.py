"""The arms of the study: what each trains, and on which tuning metric its learning rate is chosen."""

from __future__ import annotations

from benchmarks.study.design import Arm

LEARNING_RATES = (3e-5, 1e-4, 3e-4)
NINES_SELECTS = "benchmarks.study.nines:selects"
NINES_REWARDS = "benchmarks.study.nines:rewards"


def _arm(name: str, label: str, metric: str, k: int, **settings: object) -> Arm:
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return Arm(name=name, label=label, tuned_on=(metric, k), learning_rates=LEARNING_RATES, settings=dotted)


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        _arm("rloo", "standard RL (RLOO)", "pass", 1, objective__name="rloo"),
        _arm("bon16", "bon, N = 16", "pass", 16, objective__name="bon", objective__num_select=16),
        _arm("bon8", "bon, N = 8", "pass", 8, objective__name="bon", objective__num_select=8),
        _arm("bon_rlb", "BoN-RLB, N = 16", "pass", 16, objective__name="bon_rlb", objective__num_select=16),
        _arm(
            "bon_rlbp", "BoN-RLB(P), N = 16", "pass", 16, objective__name="bon_rlbp", objective__num_select=16
        ),
        _arm("rft", "RFT / STaR", "pass", 1, objective__name="rft"),
        _arm("sft", "SFT on demonstrations", "pass", 1, objective__name="sft", rollout__samples_per_prompt=1),
        _arm("bon_sft", "BoN-SFT, N = 16", "pass", 16, objective__name="bon_sft", objective__num_select=16),
        _arm(
            "nines_rloo",
            "standard RL, verifier as reward",
            "bon",
            16,
            objective__name="rloo",
            verifier__reward=NINES_REWARDS,
        ),
        _arm(
            "nines_bon16",
            "bon, N = 16, verifier selects, true reward",
            "bon",
            16,
            objective__name="bon",
            objective__num_select=16,
            verifier__reward=NINES_SELECTS,
        ),
    )
}
