"""The policy itself: loaded, sharded, its log-probs, published, written to and read from checkpoints. The
learner and the learned verifier come in; `cluster` only to find a model's files and by the learner's
worker."""
