"""From scored groups to a new policy: objectives, loss, the model, checkpoints, fine-tuning on demonstrations, the
demo's base model."""
