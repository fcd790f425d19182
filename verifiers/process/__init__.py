"""A verifier in a child process that can be killed. `composition` comes in, by `killable`; nobody else needs
to know that there is a process."""
