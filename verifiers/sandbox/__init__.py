"""Runs programs that nobody has read. What `command` lists exists inside of it too, so those files import the
standard library and each other only. `programs` comes in, by `sandbox.sandbox` and the limits of `kernel`."""
