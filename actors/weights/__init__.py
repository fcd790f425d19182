"""Weights on the engine's side: their layout, their fingerprint, and vLLM's receiver of them (`receiver`,
which imports vLLM). The learner packs by the same layout, and the controller compares fingerprints."""
