"""From groups with weights to a loss: packed batches, the loss and its facts, the comparison with the
sampler's log-probs. Knows no model; `model` and the learner come in."""
