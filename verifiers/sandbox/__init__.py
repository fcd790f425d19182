"""Runs programs that nobody has read. Everything here but `sandbox` and `command` also exists inside of it, so these files
import the standard library and each other only. `programs` comes in, by `sandbox.sandbox`."""
