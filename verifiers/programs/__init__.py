"""Verifiers of programs: what a completion's code is, and which tests decide; both run in the sandbox. Found
through the registry."""
