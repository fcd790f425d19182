"""From scored groups to a new policy: objectives, loss, the model, checkpoints, the base model's training."""
