"""One training run: the controller and what it is made of, the checks before it, how it is launched. Jobs, evaluation and
commands come in."""
