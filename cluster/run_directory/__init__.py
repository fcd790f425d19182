"""What a run leaves on disk: records, checkpoints and their integrity, `run.json`. No Ray; everybody above comes in."""
