"""The command line: one file a command or a stage of one. Nobody comes in but the user."""
