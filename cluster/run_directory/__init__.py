"""What a run leaves on disk: records, checkpoints and their integrity, `run.json`. No Ray; all rooms to its
right come in, but the fleet."""
