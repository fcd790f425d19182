"""The learned verifier: data from samples, model, losses, training, statistics. `bonfire train-verifier` comes in."""
