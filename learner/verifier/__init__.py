"""The learned verifier: data from samples, model, losses, training, statistics. `bonfire train-verifier` and
its report come in."""
