"""The workers: Ray itself, slots and handles, rollouts, verifiers, the learner's gang, weights to all of
them, their numbers. All rooms to its right come in."""
