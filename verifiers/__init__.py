"""Problems and their truth: sources, verifiers, the killable child processes, the sandbox."""
