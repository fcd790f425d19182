"""Verdicts by models: the reward model, and the settings of the judge, whose engine is in `actors`. The registry and
`verifiers.config` come in; the learned verifier shows its model what `input` shows."""
