"""The arithmetic puzzles: their generator, their verifier, solutions in steps. Imports nothing of ours but types;
problems and the study's benchmarks come in."""
