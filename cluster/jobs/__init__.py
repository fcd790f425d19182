"""Runs seen from outside: Ray jobs, and finding, asking, scaling and stopping a run that somebody else
drives. Commands come in."""
