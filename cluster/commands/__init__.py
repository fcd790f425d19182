"""The command line, and the stages of `bonfire train`. Nobody comes in but the user and the benchmarks."""
