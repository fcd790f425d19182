"""Experiment trackers: a process beside the run follows its directory and tells TensorBoard, W&B, MLflow or Trackio.
The checks before a run and `bonfire train` come in. No Ray, no torch."""
