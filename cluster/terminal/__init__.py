"""What the user sees, and what the user's signals do. Imports nothing of ours; jobs, evaluation and commands
come in."""
