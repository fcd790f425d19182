"""The workers: Ray itself, slots and handles, the loop that both fleets share, rollouts, verifiers, the learner's gang,
weights to all of them, their numbers. The controller and the evaluation come in."""
