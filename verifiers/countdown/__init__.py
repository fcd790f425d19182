"""The arithmetic puzzles: their generator, their verifier, solutions in steps. Imports nothing of ours but
types; problems, the learner's base model and the study come in."""
