"""Mathematical answers: where the answer stands in a text, and whether two mean the same. Imports nothing of
ours but types; found through the registry, its settings through `verifiers.config`; problems check truths by
`text`."""
