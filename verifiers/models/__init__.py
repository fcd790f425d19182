"""Verdicts by models: the reward model, the judge's settings (its engine is in `actors`), and what a model is
shown. The registry and `verifiers.config` come in; so does the learned verifier, which is trained on and
served as what is here."""
