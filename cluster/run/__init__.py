"""One training run: the controller and what it is made of, the checks before it, how it is launched.
Evaluation and commands come in."""
