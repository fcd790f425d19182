"""Verifiers of programs: what a completion's code is, which tests decide, and the sandbox that runs both. Found through the
registry."""
