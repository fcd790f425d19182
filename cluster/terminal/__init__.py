"""What the user sees and what the user's signals do. Imports nothing of ours; everybody comes in."""
